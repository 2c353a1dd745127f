"""Figures of how well scores rank what is right before what is not, over resampled sets.

Scores are sorted once for each model; a resampled set is its samples' counts in that order.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from edgeres.tasks.metric import Counts, Whole


def roc_area(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> Whole:
    """Area under the ROC curve: the share of pairs in right order, ties by half.

    (J. A. Hanley and B. J. McNeil, Radiology 143, 1982.)

    Args:
        scores: ``(N,)``.
        positive: ``(N,)``.

    Returns:
        Its figure in [0, 1]; NaN where a class is missing.
    """
    order = np.argsort(scores, kind="stable")
    inside = positive[order]
    first, last = _ties(scores[order])
    first, last = first[inside], last[inside]

    def figure(counts: Counts) -> float:
        taken = counts[order]
        own = taken[inside]
        below = np.concatenate(([0], np.cumsum(np.where(inside, 0, taken))))
        pairs = float(own.sum()) * float(below[-1])
        if pairs == 0:
            return math.nan
        return float(own @ (below[first] + below[last + 1])) / (2 * pairs)

    return figure


def mean_average_precision(scores: NDArray[np.float64], labels: NDArray[np.int8]) -> Whole:
    """Mean over the classes of the average precision, ``sum (R_k - R_(k-1)) P_k``.

    Args:
        scores: ``(N, K)``.
        labels: ``(N, K)``: 1, 0, or -1 where nobody knows, which leaves the sample out.

    Returns:
        Its figure in [0, 1] over the classes that have a right sample; NaN where none has.
    """
    classes = [
        average_precision(scores[known, k], labels[known, k] == 1, np.flatnonzero(known))
        for k in range(scores.shape[1])
        for known in [labels[:, k] >= 0]
    ]

    def figure(counts: Counts) -> float:
        found = np.array([one(counts) for one in classes])
        found = found[np.isfinite(found)]
        return float(found.mean()) if len(found) else math.nan

    return figure


def average_precision(
    scores: NDArray[np.float64], positive: NDArray[np.bool_], where: NDArray[np.int64]
) -> Whole:
    """Average precision of one class.

    Args:
        scores: ``(M,)`` of the samples that are judged.
        positive: ``(M,)``.
        where: ``(M,)``: their places among all samples.
    """
    falling = np.argsort(-scores, kind="stable")
    order = where[falling]
    inside = positive[falling]
    places = np.flatnonzero(inside)
    own = order[places]
    last = _ties(scores[falling])[1][places]
    # of the right ones that stand up to the end of each one's tie
    before = np.searchsorted(places, last, side="right") - 1

    def figure(counts: Counts) -> float:
        right = counts[own]
        total = right.sum()
        if total == 0:
            return math.nan
        reached = np.cumsum(counts[order])[last]
        hits = np.cumsum(right)[before]
        return float(right @ (hits / np.maximum(reached, 1)) / total)

    return figure


def _ties(ordered: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and last place of the equal scores around each place."""
    if not len(ordered):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    sizes = np.diff(np.r_[starts, len(ordered)])
    return np.repeat(starts, sizes), np.repeat(starts + sizes - 1, sizes)
