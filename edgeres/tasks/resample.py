"""Confidence bounds of a figure of a whole set, by drawing sets of the same size from its samples.

Both models are judged on the same draws, so what they share cancels. The bounds are those of the
bias-corrected and accelerated bootstrap (B. Efron, "Better bootstrap confidence intervals", JASA
82, 1987); its acceleration comes from leaving out blocks of samples (J. Shao and D. Tu, "The
jackknife and bootstrap", 1995, section 2.3), which needs a few hundred evaluations whatever the
number of samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from edgeres.errors import DataError
from edgeres.tasks.metric import Whole

RESAMPLES = 2000
_BLOCKS = 200
_FEWEST = 0.9
"""Share of the draws that must have the figure at all: others lack what it needs, e.g. a class."""

_NORMAL = NormalDist()


@dataclass(frozen=True)
class Draws:
    """Figures of resampled sets.

    Attributes:
        figures: ``(B, M) float64``: of ``M`` figures in ``B`` draws.
        whole: ``(M,)``: of the set itself.
        acceleration: ``(M,)``: skewness of one block's share, over six.
        reach: ``(M,)``: how far one sample moves a figure, times the number of samples.
    """

    figures: NDArray[np.float64]
    whole: NDArray[np.float64]
    acceleration: NDArray[np.float64]
    reach: NDArray[np.float64]

    def bounds(self, column: int, confidence: float) -> tuple[float, float]:
        """One-sided lower and upper bound of one figure."""
        drawn = self.figures[:, column]
        whole = self.whole[column]
        less = float((drawn < whole).mean() + 0.5 * (drawn == whole).mean())
        edge = 0.5 / len(drawn)
        bias = _NORMAL.inv_cdf(min(1 - edge, max(edge, less)))
        shares = []
        for z in (_NORMAL.inv_cdf(1 - confidence), _NORMAL.inv_cdf(confidence)):
            moved = bias + z
            room = max(0.1, 1 - float(self.acceleration[column]) * moved)
            shares.append(_NORMAL.cdf(bias + moved / room))
        low, high = np.quantile(drawn, shares)
        return float(low), float(high)

    def spread(self, column: int) -> float:
        """Standard deviation over the draws."""
        return float(self.figures[:, column].std())


def draw(
    figures: Callable[[NDArray[np.int64]], tuple[float, ...]],
    groups: NDArray[np.int64],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Draws:
    """Draws sets with replacement; samples of one group are drawn together.

    Args:
        figures: From the counts of the samples, ``(N,) int64``, to the figures.
        groups: ``(N,)``: the same number means that samples belong together.
        resamples: Draws.
        seed: Of the draws.

    Raises:
        DataError: More than a tenth of the draws have no figure.
    """
    rng = np.random.default_rng(seed)
    _, unit = np.unique(groups, return_inverse=True)
    units = int(unit.max()) + 1
    ones = np.ones(len(groups), dtype=np.int64)
    whole = np.array(figures(ones))
    drawn = np.array(
        [
            figures(np.bincount(rng.integers(0, units, units), minlength=units)[unit])
            for _ in range(resamples)
        ]
    )
    there = np.isfinite(drawn).all(axis=1)
    if there.mean() < _FEWEST:
        raise DataError(
            f"{int((~there).sum())} of {resamples} sets drawn from the {len(groups)} samples lack "
            "what the metric needs, e.g. a class.",
            hint="Use more samples, or a metric that they can tell.",
        )
    order = rng.permutation(units)
    parts = min(units, _BLOCKS)
    blocks = _without(figures, unit, np.array_split(order, parts))
    singles = _without(figures, unit, np.split(order[:parts], parts))
    return Draws(
        drawn[there],
        whole,
        _skewness(blocks) / 6,
        units * np.ptp(np.vstack([singles, whole]), axis=0),
    )


def _without(
    figures: Callable[[NDArray[np.int64]], tuple[float, ...]],
    unit: NDArray[np.int64],
    left_out: list[NDArray[np.int64]],
) -> NDArray[np.float64]:
    """Figures of the set without each of these groups of units, ``(L, M)``, where it has any."""
    rows = []
    for units in left_out:
        kept = np.ones(int(unit.max()) + 1, dtype=np.int64)
        kept[units] = 0
        rows.append(figures(kept[unit]))
    found: NDArray[np.float64] = np.array(rows)
    return np.asarray(found[np.isfinite(found).all(axis=1)])


def _skewness(left_out: NDArray[np.float64]) -> NDArray[np.float64]:
    """``sum(I^3) / sum(I^2)^1.5`` of what each block gives, 0 where it gives nothing."""
    given = left_out - left_out.sum(axis=0) / max(1, len(left_out))
    square = np.square(given).sum(axis=0)
    cube: NDArray[np.float64] = -(given**3).sum(axis=0)
    skewness = np.zeros_like(cube)
    np.divide(cube, square**1.5, out=skewness, where=square > 0)
    return skewness


def both(
    first: Whole, second: Whole, sign: float
) -> Callable[[NDArray[np.int64]], tuple[float, ...]]:
    """Drop from the first to the second, the second, and the first, on the same counts.

    Args:
        first: The baseline's figure.
        second: The candidate's.
        sign: 1 where higher is better, else -1.
    """

    def figures(counts: NDArray[np.int64]) -> tuple[float, ...]:
        before, after = first(counts), second(counts)
        if not (math.isfinite(before) and math.isfinite(after)):
            return (math.nan,) * 3
        return sign * (before - after), after, before

    return figures
