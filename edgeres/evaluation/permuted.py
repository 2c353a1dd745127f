"""Labels that are exchanged: another order of the classes, two of them swapped, counted from 1.

A model that answers nearly all images of one class as a second, and those of the second as the
first, has learned them well and is told the wrong names. Nothing shows in a comparison of two
engines, for both are wrong on the same images.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeres.evaluation.predictions import Predictions
from edgeres.evaluation.statistics import log_heads_at_least

_UNLIKELY = 1e-4  # chance that any exchange at all looks proven where none is
_TOLD_CLASSES = 3


def best_label_map(baseline: Predictions) -> tuple[tuple[int, ...], float]:
    """The exchange of labels under which the model would be right most often.

    Returns:
        For each label of the data the label that it should be, and the top-1 in [0, 1] after the
        exchange (the assignment problem on the confusion matrix, solved exactly).
    """
    from scipy.optimize import linear_sum_assignment

    counts = _confusion(baseline)
    # A class that stays has the edge over an equally good exchange.
    benefit = counts * 2 + np.eye(baseline.classes, dtype=np.int64)
    rows, columns = linear_sum_assignment(benefit, maximize=True)
    return tuple(int(c) for c in columns), float(counts[rows, columns].sum()) / baseline.samples


def exchanged_labels(baseline: Predictions) -> str:
    """Names the labels that are proven to be exchanged, in one sentence; empty where none are.

    The best exchange falls into cycles, each judged by itself. A cycle is proven where each of its
    classes is answered as the next one more often than as itself, and a fair coin for each of these
    answers would hardly give so many: the chance is that of the sign test, times the number of
    cycles of that length that could have looked like this (Bonferroni).
    """
    mapping, _ = best_label_map(baseline)
    counts = _confusion(baseline)
    repaired = int(np.trace(counts))
    proven: dict[int, int] = {}
    for cycle in _cycles(mapping):
        classes = [old for old in cycle if counts[old].any()]
        moved = np.array([counts[old, mapping[old]] for old in classes])
        stays = np.array([counts[old, old] for old in classes])
        tosses = int(moved.sum() + stays.sum())
        if not classes or (moved <= stays).any():
            continue
        log_chance = log_heads_at_least(int(moved.sum()), tosses)
        if log_chance + len(classes) * np.log(baseline.classes) <= np.log(_UNLIKELY):
            proven |= {old: mapping[old] for old in classes}
            repaired += int(moved.sum() - stays.sum())
    if not proven:
        return ""
    top1 = repaired / baseline.samples
    steps = {new - old for old, new in proven.items()}
    present = int(np.count_nonzero(np.bincount(baseline.labels)))
    if len(steps) == 1 and len(proven) == present and len(proven) > 1:
        (step,) = steps
        counted = " (the labels are 1-based: subtract 1)" if step == -1 else ""
        return (
            f"The labels look permuted: all of them are off by {-step:+d}{counted}; with that "
            f"mended, top-1 would be {top1:.4f}."
        )
    examples = "; ".join(
        f"{class_name(baseline, old)!r} is answered as {class_name(baseline, new)!r}"
        for old, new in list(proven.items())[:_TOLD_CLASSES]
    ) + ("; ..." if len(proven) > _TOLD_CLASSES else "")
    return f"The labels look permuted: with {examples}, top-1 would be {top1:.4f}."


def class_name(predictions: Predictions, label: int) -> str:
    """Name of a class, its number where it has none."""
    return predictions.class_names[label] if predictions.class_names else str(label)


def _confusion(baseline: Predictions) -> NDArray[np.int64]:
    """``(K, K)``: images by label and predicted class."""
    counts = np.zeros((baseline.classes, baseline.classes), dtype=np.int64)
    np.add.at(counts, (baseline.labels, baseline.predicted), 1)
    return counts


def _cycles(mapping: tuple[int, ...]) -> list[list[int]]:
    """The cycles of a permutation, without its fixed points."""
    cycles, positions = [], {old for old, new in enumerate(mapping) if old != new}
    while positions:
        cycle = [min(positions)]
        while (following := mapping[cycle[-1]]) != cycle[0]:
            cycle.append(following)
        positions -= set(cycle)
        cycles.append(cycle)
    return cycles
