"""The calibrator ``mse``: least squared error of 8-bit quantization.

Prefix sums over the histogram judge all thresholds at once.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeres.calibrators.base import BINS, ChosenRange, Summary

_ASYMMETRIC_LEVELS = 255
_SYMMETRIC_LEVELS = 127


def choose(summary: Summary) -> ChosenRange:
    """Least squared error of 8-bit quantization.

    Inside the range a value that is not zero errs by ``scale**2 / 12`` on average (uniform rounding
    noise); outside it errs by its distance to the end. Low and high are searched together.
    """
    sums = _TailSums(summary)
    low, high = _best_pair(sums, *sums.edges(step=32))
    low, high = _best_pair(sums, *sums.edges(step=2, near=(low, high), reach=32))
    magnitude = _best_magnitude(sums)
    return ChosenRange(
        min(max(low, summary.low), 0.0), max(min(high, summary.high), 0.0), magnitude
    )


class _TailSums:
    """Prefix sums over the bins: squared clipping error beyond any bin edge in one look-up."""

    def __init__(self, summary: Summary) -> None:
        self.summary = summary
        self.width = summary.width
        centre = (np.arange(2 * BINS) - BINS + 0.5) * summary.width
        counts = summary.counts.astype(np.float64)
        moments = np.stack([counts, counts * centre, counts * centre**2])
        self.upto = np.concatenate([np.zeros((3, 1)), np.cumsum(moments, axis=1)], axis=1)
        self.all = self.upto[:, -1]

    def edges(
        self, *, step: int, near: tuple[float, float] | None = None, reach: int = 0
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Candidate bin edges for the low and for the high end."""
        first = int(np.floor(min(self.summary.low, 0.0) / self.width)) + BINS
        last = int(np.ceil(max(self.summary.high, 0.0) / self.width)) + BINS
        first, last = max(first, 0), min(last, 2 * BINS)
        if near is None:
            lows = np.append(np.arange(first, BINS, step), BINS)
            highs = np.append(np.arange(last, BINS, -step), BINS)
            return lows, highs
        low, high = (round(end / self.width) + BINS for end in near)
        lows = np.arange(max(first, low - reach), min(BINS, low + reach) + 1, step)
        highs = np.arange(min(last, high + reach), max(BINS, high - reach) - 1, -step)
        return lows, highs

    def above(self, edge: NDArray[np.int64]) -> NDArray[np.float64]:
        """Sum of squared distances to an edge of all values above it."""
        n, first, second = self.all[:, None] - self.upto[:, edge]
        value = (edge - BINS) * self.width
        return np.asarray(second - 2 * value * first + value**2 * n)

    def below(self, edge: NDArray[np.int64]) -> NDArray[np.float64]:
        """Sum of squared distances to an edge of all values below it."""
        n, first, second = self.upto[:, edge]
        value = (edge - BINS) * self.width
        return np.asarray(second - 2 * value * first + value**2 * n)


def _best_pair(
    sums: _TailSums, lows: NDArray[np.int64], highs: NDArray[np.int64]
) -> tuple[float, float]:
    scale = (highs[None, :] - lows[:, None]) * sums.width / _ASYMMETRIC_LEVELS
    inside = sums.upto[0][highs][None, :] - sums.upto[0][lows][:, None]
    error = inside * scale**2 / 12 + sums.below(lows)[:, None] + sums.above(highs)[None, :]
    error[scale <= 0] = np.inf
    row, column = np.unravel_index(int(error.argmin()), error.shape)
    return (
        float((lows[row] - BINS) * sums.width),
        float((highs[column] - BINS) * sums.width),
    )


def _best_magnitude(sums: _TailSums) -> float:
    top = max(-sums.summary.low, sums.summary.high)
    steps = np.arange(1, min(int(np.ceil(top / sums.width)), BINS) + 1)
    highs, lows = BINS + steps, BINS - steps
    scale = steps * sums.width / _SYMMETRIC_LEVELS
    inside = sums.upto[0][highs] - sums.upto[0][lows]
    error = inside * scale**2 / 12 + sums.below(lows) + sums.above(highs)
    return float(min(steps[int(error.argmin())] * sums.width, top))
