"""Is the FP32 baseline itself believable? A wrong label map or preprocessing shows here first."""

from __future__ import annotations

import numpy as np

from edgeres.errors import DataError, ModelError
from edgeres.evaluation.permuted import class_name, exchanged_labels
from edgeres.evaluation.predictions import Predictions
from edgeres.evaluation.statistics import wilson_interval

_LEAST_SKILL = 0.05  # share of the way from chance to perfect below which a model knows nothing
_TOLERANCE = 0.01  # top-1 below the declared one that no longer is rounding or another decoder
_SURE = 0.999  # confidence that a baseline is really below its declared accuracy


def check_baseline(baseline: Predictions, *, declared_top1: float | None = None) -> None:
    """Stops where the baseline cannot be right: at random, far too low, or with labels exchanged.

    Chance is the share of the most frequent label. A baseline that covers less than 5 % of the way
    from chance to 1 is taken for random. It is far below its declared accuracy where the upper
    limit of its 99.9 % Wilson interval is more than one percentage point below. Labels that are
    proven to be exchanged (:func:`edgeres.evaluation.permuted.exchanged_labels`) stop it at any
    accuracy.

    Args:
        baseline: Answers of the FP32 model.
        declared_top1: Top-1 that the model is known to reach, in [0, 1]; ``None`` skips that check.

    Raises:
        DataError: All labels are the same, the accuracy is near chance or far below the declared
            one, or labels are exchanged, which the hint or the message names.
        ModelError: The baseline gives NaN or Inf.
    """
    bad = int((~baseline.finite).sum())
    who = baseline.name or "the FP32 model"
    if bad:
        raise ModelError(
            f"{who}: {bad} of {baseline.samples} outputs have NaN or Inf before quantization.",
            hint="Check the weights and the preprocessing.",
        )
    counts = np.bincount(baseline.labels)
    if np.count_nonzero(counts) < 2:
        only = class_name(baseline, int(baseline.labels[0]))
        raise DataError(
            f"{who}: all {baseline.samples} images have the label {only!r}; one answer for "
            "everything would be right.",
            hint="Validate with images of at least two classes.",
        )
    right = int(baseline.correct.sum())
    top1 = right / baseline.samples
    chance = float(counts.max()) / baseline.samples
    if (top1 - chance) / (1 - chance) < _LEAST_SKILL:
        raise DataError(
            f"{who}: top-1 is {top1:.4f} on {baseline.samples} samples, near the "
            f"{chance:.4f} that guessing reaches.",
            hint=exchanged_labels(baseline) or _GENERAL,
        )
    if declared_top1 is not None:
        upper = wilson_interval(right, baseline.samples, _SURE)[1]
        if upper < declared_top1 - _TOLERANCE:
            raise DataError(
                f"{who}: top-1 is {top1:.4f} on {baseline.samples} samples, far below the "
                f"declared {declared_top1:.4f}.",
                hint=exchanged_labels(baseline) or _GENERAL,
            )
    if permuted := exchanged_labels(baseline):
        raise DataError(
            f"{who}: top-1 is {top1:.4f} on {baseline.samples} samples, and it is the labels that "
            f"are wrong. {permuted}",
            hint="Put the classes in the order that the model was trained with.",
        )


_GENERAL = "Check preprocessing (scale, mean, std, channel order) and the order of the classes."
