"""Signal to quantization noise: one definition for logits, activations and weights."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

#: Stands for equal to the last bit where a number must be finite; float32 cannot tell as much.
EQUAL_DB = 200.0
_ROWS = 4096  # squared at once, so that a large set needs no second copy in float64


def sqnr_db(reference: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    """``10 log10(sum(r^2) / sum((r - o)^2))`` in decibels, summed in float64.

    Args:
        reference: Any shape; what should have come out.
        other: The same shape.

    Returns:
        ``inf`` where the two are equal to the last bit or empty, ``-inf`` where only the
        reference is all zero.
    """
    signal = noise = 0.0
    for start in range(0, len(reference), _ROWS):
        exact = reference[start : start + _ROWS].astype(np.float64)
        signal += float(np.square(exact).sum())
        noise += float(np.square(exact - other[start : start + _ROWS]).sum())
    return ratio_db(signal, noise)


def ratio_db(signal: float, noise: float) -> float:
    """Two energies as decibels; ``inf`` without noise, ``-inf`` without signal or at a NaN."""
    if noise == 0.0:
        return math.inf
    ratio = signal / noise
    return 10 * math.log10(ratio) if ratio > 0.0 else -math.inf


def bounded_db(value: float) -> float:
    """The same within plus and minus :data:`EQUAL_DB`, so that JSON can hold it."""
    return min(EQUAL_DB, max(-EQUAL_DB, value))
