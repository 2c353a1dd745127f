"""Pairs of embeddings: which are compared, and how many of the right ones are accepted."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeres.tasks.metric import Counts, Whole

MOST_PAIRS = 200_000
"""Pairs of each kind that are compared; of more, a seeded choice."""
_SEED = 20240229
_BLOCK = 1024


@dataclass(frozen=True)
class Pairs:
    """Pairs of samples, ``(P,) int64`` each, and whether both show the same thing, ``(P,)``."""

    one: NDArray[np.int64]
    two: NDArray[np.int64]
    same: NDArray[np.bool_]


def pairs_of(
    labels: NDArray[np.int64],
    most: int = MOST_PAIRS,
    *,
    same: NDArray[np.int64] | None = None,
) -> Pairs:
    """All pairs, or a choice that depends on the labels alone, so two models get the same.

    Args:
        labels: ``(N,)``: who or what a sample shows.
        most: Pairs of each kind.
        same: ``(N,)``: samples of one number show the same image and are no pair.
    """
    pairs = _any_pairs(labels, most)
    if same is None:
        return pairs
    kept = same[pairs.one] != same[pairs.two]
    return Pairs(pairs.one[kept], pairs.two[kept], pairs.same[kept])


def _any_pairs(labels: NDArray[np.int64], most: int) -> Pairs:
    rng = np.random.default_rng(_SEED)
    count = len(labels)
    if count * (count - 1) // 2 <= most:
        one, two = np.triu_indices(count, 1)
        return Pairs(one, two, labels[one] == labels[two])
    order = np.argsort(labels, kind="stable")
    _, starts, sizes = np.unique(labels[order], return_index=True, return_counts=True)
    if int((sizes * (sizes - 1) // 2).sum()) <= most:
        inside = [np.triu_indices(int(size), 1) for size in sizes]
        left = np.concatenate([s + a for s, (a, _) in zip(starts, inside, strict=True)])
        right = np.concatenate([s + b for s, (_, b) in zip(starts, inside, strict=True)])
    else:
        weights = sizes * (sizes - 1.0)
        chosen = rng.choice(len(sizes), most, p=weights / weights.sum())
        left = rng.integers(0, sizes[chosen])
        right = (left + rng.integers(1, sizes[chosen])) % sizes[chosen]
        left, right = starts[chosen] + left, starts[chosen] + right
    one, two = rng.integers(0, count, (2, most))
    other = labels[one] != labels[two]
    return Pairs(
        np.concatenate((order[left], one[other])),
        np.concatenate((order[right], two[other])),
        np.concatenate((np.ones(len(left), np.bool_), np.zeros(int(other.sum()), np.bool_))),
    )


def cosines(units: NDArray[np.float32], pairs: Pairs) -> NDArray[np.float32]:
    """Cosine of each pair, ``(P,)``; ``units`` are ``(N, D)`` of length 1."""
    near = np.empty(len(pairs.one), np.float32)
    for start in range(0, len(near), _BLOCK * 16):
        part = slice(start, start + _BLOCK * 16)
        near[part] = np.einsum("pd,pd->p", units[pairs.one[part]], units[pairs.two[part]])
    return near


def true_accepts(near: NDArray[np.float32], pairs: Pairs, false_accepts: float) -> Whole:
    """Share of same pairs above the threshold that this share of other pairs reaches.

    A pair counts as often as both of its samples are drawn.

    Args:
        near: ``(P,)``: how near each pair is.
        pairs: The pairs.
        false_accepts: In (0, 1): the threshold is the lowest with no more of the other pairs.

    Returns:
        The share in [0, 1]; NaN where a kind of pair is missing.
    """
    falling = np.argsort(-near, kind="stable")
    one, two, same = pairs.one[falling], pairs.two[falling], pairs.same[falling]
    sorted_near = near[falling]
    ends = np.flatnonzero(np.r_[sorted_near[1:] != sorted_near[:-1], True])

    def figure(counts: Counts) -> float:
        weights = counts[one] * counts[two]
        right = np.cumsum(np.where(same, weights, 0))
        wrong = np.cumsum(weights) - right
        if right[-1] == 0 or wrong[-1] == 0:
            return math.nan
        allowed = wrong[ends] <= false_accepts * wrong[-1]
        reached = int(allowed.sum())  # wrong only grows
        return float(right[ends[reached - 1]] / right[-1]) if reached else 0.0

    return figure


def nearest_is_same(
    units: NDArray[np.float32], labels: NDArray[np.int64], same: NDArray[np.int64] | None = None
) -> NDArray[np.float64]:
    """1 for each sample whose nearest other one has its label, else 0: ``(N,)``.

    Args:
        units: ``(N, D)`` of length 1.
        labels: ``(N,)``: who or what a sample shows.
        same: ``(N,)``: samples of one number show the same image, which is no other one.
    """
    same = np.arange(len(units)) if same is None else same
    found = np.zeros(len(units))
    for start in range(0, len(units), _BLOCK):
        near = units[start : start + _BLOCK] @ units.T
        near[np.isnan(near)] = -np.inf
        rows = np.arange(len(near))
        near[same[start + rows, None] == same[None]] = -np.inf
        found[start : start + _BLOCK] = labels[near.argmax(axis=1)] == labels[start + rows]
    return found
