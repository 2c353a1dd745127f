"""What a calibrator gets and what it gives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: Bins on each side of zero. The largest magnitude lies in the upper half of them.
BINS = 2048
#: Sampled values other than zero that a choice needs; with fewer the whole range is kept.
ENOUGH = 100


@dataclass(frozen=True)
class ChosenRange:
    """The range that one calibrator chose for one tensor.

    Attributes:
        low: Lower end for asymmetric INT8, at most 0.
        high: Upper end for asymmetric INT8, at least 0.
        magnitude: End ``t`` of ``[-t, t]`` for symmetric INT8, which has half the levels for a
            tensor without negative values and so may clip earlier.
    """

    low: float
    high: float
    magnitude: float


@dataclass(frozen=True)
class Summary:
    """Everything that a calibrator knows of one tensor.

    Attributes:
        low: Smallest value seen.
        high: Largest value seen.
        counts: ``(2 * BINS,) int64``; bin ``i`` holds ``[(i - BINS) * w, (i - BINS + 1) * w)``.
        width: Width ``w`` of a bin.
        zeros: Number of exact zeros, which are not in ``counts``.
    """

    low: float
    high: float
    counts: NDArray[np.int64]
    width: float
    zeros: int


def range_of(low: float, high: float) -> ChosenRange:
    """A range that holds zero, symmetric to the farther end where it must be symmetric."""
    return ChosenRange(min(low, 0.0), max(high, 0.0), max(-low, high, 0.0))


def whole_range(summary: Summary) -> ChosenRange:
    """From the smallest to the largest value seen."""
    return range_of(summary.low, summary.high)
