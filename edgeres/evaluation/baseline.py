"""Is the FP32 baseline itself believable? A wrong label map or preprocessing shows here first."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeres.errors import DataError, ModelError
from edgeres.evaluation.compare import same_image_groups
from edgeres.evaluation.distinct import contradicted_samples
from edgeres.evaluation.permuted import class_name, exchanged_labels
from edgeres.evaluation.predictions import Predictions
from edgeres.evaluation.statistics import wilson_interval

_LEAST_SKILL = 0.05  # share of the way from chance to perfect below which a model knows nothing
_TOLERANCE = 0.01  # top-1 below the declared one that no longer is rounding or another decoder
_LARGE_SHARE = 0.2  # of samples under two labels that may explain an accuracy near chance
_SURE = 0.999  # confidence that a baseline is really below its declared accuracy

if TYPE_CHECKING:
    from edgeres.data.types import Dataset


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
            hint=_contradicted(baseline) or exchanged_labels(baseline) or _GENERAL,
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


def contradicting_labels(baseline: Predictions, dataset: Dataset) -> str:
    """Says how many images are in a set under more than one label, with an example.

    Args:
        baseline: Answers of the FP32 model.
        dataset: What it answered, for the names; without them where images were left out.

    Returns:
        A sentence or two; empty where there is no such image.
    """
    groups = same_image_groups(baseline, baseline)
    unsure = contradicted_samples(groups, baseline.labels)
    if not unsure.any():
        return ""
    images = len(np.unique(groups[unsure]))
    first = int(np.flatnonzero(unsure)[0])
    others = (groups == groups[first]) & (baseline.labels != baseline.labels[first])
    second = int(np.flatnonzero(others)[0])
    examples = " and ".join(
        f"{dataset.image_name(i) if len(dataset) == baseline.samples else 'an image'} "
        f"(label {class_name(baseline, int(baseline.labels[i]))!r})"
        for i in (first, second)
    )
    are = "image is" if images == 1 else "images are"
    return (
        f"{dataset.name}: {images} {are} there under two or more labels "
        f"({int(unsure.sum())} of {baseline.samples} samples), for example {examples}. "
        "Keep each image under its right label."
    )


def _contradicted(baseline: Predictions) -> str:
    """Contradicting labels as the likely reason, where a large share of them are."""
    unsure = contradicted_samples(same_image_groups(baseline, baseline), baseline.labels)
    if unsure.mean() < _LARGE_SHARE:
        return ""
    return (
        f"{int(unsure.sum())} of the samples show an image that is also there under another label: "
        "keep each image under its right label."
    )


_GENERAL = "Check preprocessing (scale, mean, std, channel order) and the order of the classes."
