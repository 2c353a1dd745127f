"""Is the FP32 baseline itself believable? A wrong label map or preprocessing shows here first."""

from __future__ import annotations

import numpy as np

from edgeres.errors import DataError, ModelError
from edgeres.evaluation.predictions import Predictions
from edgeres.evaluation.statistics import wilson_interval

_LEAST_SKILL = 0.05  # share of the way from chance to perfect below which a model knows nothing
_TOLERANCE = 0.01  # top-1 below the declared one that no longer is rounding or another decoder
_SURE = 0.999  # confidence that a baseline is really below its declared accuracy
_SAMPLES_A_CLASS = 5  # with fewer, the best permutation of labels fits the noise
_TOLD_CLASSES = 3


def check_baseline(baseline: Predictions, *, declared_top1: float | None = None) -> None:
    """Stops where the baseline answers at random or falls far short of what it is known to reach.

    Chance is the share of the most frequent label. A baseline that covers less than 5 % of the way
    from chance to 1 is taken for random. It is far below its declared accuracy where the upper
    limit of its 99.9 % Wilson interval is more than one percentage point below.

    Args:
        baseline: Answers of the FP32 model.
        declared_top1: Top-1 that the model is known to reach, in [0, 1]; ``None`` skips that check.

    Raises:
        DataError: The accuracy is near chance or far below the declared one; where exchanging
            labels would repair it, the hint names them.
        ModelError: The baseline gives NaN or Inf.
    """
    bad = int((~baseline.finite).sum())
    who = baseline.name or "the FP32 model"
    if bad:
        raise ModelError(
            f"{who}: {bad} of {baseline.samples} outputs have NaN or Inf before quantization.",
            hint="Check the weights and the preprocessing.",
        )
    right = int(baseline.correct.sum())
    top1 = right / baseline.samples
    chance = float(np.bincount(baseline.labels).max()) / baseline.samples
    if chance < 1.0 and (top1 - chance) / (1 - chance) < _LEAST_SKILL:
        raise DataError(
            f"{who}: top-1 is {top1:.4f} on {baseline.samples} samples, near the "
            f"{chance:.4f} that guessing reaches.",
            hint=_label_hint(baseline, top1),
        )
    if declared_top1 is not None:
        upper = wilson_interval(right, baseline.samples, _SURE)[1]
        if upper < declared_top1 - _TOLERANCE:
            raise DataError(
                f"{who}: top-1 is {top1:.4f} on {baseline.samples} samples, far below the "
                f"declared {declared_top1:.4f}.",
                hint=_label_hint(baseline, top1),
            )


def best_label_map(baseline: Predictions) -> tuple[tuple[int, ...], float]:
    """The exchange of labels under which the model would be right most often.

    Returns:
        For each label of the data the label that it should be, and the top-1 in [0, 1] after the
        exchange (the assignment problem on the confusion matrix, solved exactly).
    """
    from scipy.optimize import linear_sum_assignment

    counts = np.zeros((baseline.classes, baseline.classes), dtype=np.int64)
    np.add.at(counts, (baseline.labels, baseline.predicted), 1)
    # A class that stays has the edge over an equally good exchange.
    benefit = counts * 2 + np.eye(baseline.classes, dtype=np.int64)
    rows, columns = linear_sum_assignment(benefit, maximize=True)
    return tuple(int(c) for c in columns), float(counts[rows, columns].sum()) / baseline.samples


def _label_hint(baseline: Predictions, top1: float) -> str:
    general = "Check preprocessing (scale, mean, std, channel order) and the order of the classes."
    if baseline.samples < _SAMPLES_A_CLASS * baseline.classes:
        return general
    mapping, repaired = best_label_map(baseline)
    if repaired < top1 + (1 - top1) / 2:
        return general
    names = baseline.class_names or tuple(str(label) for label in range(baseline.classes))
    moved = [
        f"{names[old]!r} is answered as {names[new]!r}"
        for old, new in enumerate(mapping)
        if old != new
    ]
    told = "; ".join(moved[:_TOLD_CLASSES]) + ("; ..." if len(moved) > _TOLD_CLASSES else "")
    return f"The labels look permuted: with {told}, top-1 would be {repaired:.4f}."
