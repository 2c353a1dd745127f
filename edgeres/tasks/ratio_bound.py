"""Confidence bounds of the ratio of two means, e.g. noise over signal.

A ratio ``r`` is refuted where the mean of ``noise - r signal`` is surely not 0 (E. C. Fieller,
"Some problems in interval estimation", Journal of the Royal Statistical Society B 16, 1954). What
is sure says the score bound of :mod:`edgeres.tasks.mean_bound`, since noise is skewed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeres.tasks.mean_bound import mean_upper

_BISECTIONS = 30
_LARGEST = 1e6


def ratio_upper(
    noise: NDArray[np.float64], signal: NDArray[np.float64], confidence: float, effective: float
) -> float:
    """One-sided upper confidence bound of mean noise over mean signal.

    Without any noise it is that of one sample, unseen, whose answer is as wrong as zeros are.

    Args:
        noise: ``(N,)``, at least 0.
        signal: ``(N,)``, at least 0, not all 0.
        confidence: One-sided, from 0.5 to below 1.
        effective: Independent samples that they are worth.
    """
    ratio = float(noise.mean() / signal.mean())
    if ratio == 0.0:
        unseen = mean_upper(noise, float(signal.max()), confidence, effective)
        return unseen / float(signal.mean())

    def refuted(larger: float) -> bool:
        return _surely_below(noise - larger * signal, confidence, effective)

    low = high = ratio
    while not refuted(high) and high < _LARGEST * ratio:
        low, high = high, 1.5 * high
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if refuted(middle) else (middle, high)
    return high


def ratio_lower(
    noise: NDArray[np.float64], signal: NDArray[np.float64], confidence: float, effective: float
) -> float:
    """One-sided lower confidence bound; as :func:`ratio_upper`."""
    low, high = 0.0, float(noise.mean() / signal.mean())
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if _surely_below(middle * signal - noise, confidence, effective):
            low = middle
        else:
            high = middle
    return low


def _surely_below(values: NDArray[np.float64], confidence: float, effective: float) -> bool:
    return mean_upper(values, float(np.abs(values).max()), confidence, effective) < 0.0
