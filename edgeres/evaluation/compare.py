"""How the answers of a candidate differ from a baseline's on the same samples."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeres.errors import DataError, ModelError
from edgeres.evaluation.distinct import contradicted_samples, same_images
from edgeres.evaluation.predictions import Predictions
from edgeres.evaluation.statistics import (
    drop_lower,
    drop_upper,
    holm,
    mcnemar_exact,
    wilson_interval,
)
from edgeres.sqnr import sqnr_db
from edgeres.tasks.repeats import effective_samples

_ALL_DIFFERENT = 0.99
_CONSTANT = 1e-4  # variance of the answers over the images, as a share of the baseline's


@dataclass(frozen=True)
class Flips:
    """Samples whose right answer changed: ``lost`` only the baseline, ``gained`` only the other."""

    lost: int
    gained: int


@dataclass(frozen=True)
class ClassDrop:
    """Drop of one class.

    ``p_value`` is exact McNemar's against "not more lost than gained", adjusted over all classes
    (Holm), so that naming every class with ``p_value <= 0.05`` names a wrong one in at most one
    report of twenty.
    """

    label: int
    name: str
    samples: int
    drop_pp: float
    lost: int
    gained: int
    p_value: float


@dataclass(frozen=True)
class Comparison:
    """Accuracy of a candidate against a baseline, paired by sample.

    Attributes:
        samples: Number of samples, N.
        confidence: One-sided confidence of the bounds.
        baseline_top1: Share of samples that the baseline gets right, in [0, 1].
        top1: The candidate's; a sample with NaN or Inf counts as wrong.
        top1_interval: Two-sided Wilson interval of ``top1`` at ``confidence``.
        baseline_top5: Share with the label among the five largest logits; ``None`` where there are
            not more than five classes.
        top5: The candidate's.
        drop_pp: Percentage points lost, negative for a gain.
        drop_lower_pp: One-sided lower confidence bound of the drop (Tango's score bound).
        drop_upper_pp: One-sided upper confidence bound of the drop.
        agreement: Share of samples with the same predicted class, right or wrong.
        flips: Samples lost and gained.
        p_value: Two-sided exact McNemar test of equal accuracy.
        sqnr_db: ``10 log10(sum(fp32^2) / sum((fp32 - engine)^2))`` over the logits of the samples
            with finite logits; ``None`` where they are equal to the last bit, or none is finite.
        nan_samples: Samples of the candidate with a NaN among the logits.
        inf_samples: Samples with an Inf, and no NaN, among the logits.
        class_drops: One entry for each class that has samples, largest drop first.
        distinct: Different images among the samples (:mod:`edgeres.evaluation.distinct`).
        effective: Independent samples that the bounds count: ``distinct`` where all are repeated
            equally often, and fewer where some are repeated more.
        constant: Whether the candidate answers the same for all samples, and the baseline does not.
        contradicted: Samples whose image is there under more than one label. Which one is right is
            not known, so the bounds on the drop hold for either: where the two models answer such
            a sample otherwise, the upper bound counts it as lost and the lower one as gained.
        silent: Names of classes that the candidate never answers though the baseline does so
            rightly, more often than chance explains.
    """

    samples: int
    confidence: float
    baseline_top1: float
    top1: float
    top1_interval: tuple[float, float]
    baseline_top5: float | None
    top5: float | None
    drop_pp: float
    drop_lower_pp: float
    drop_upper_pp: float
    agreement: float
    flips: Flips
    p_value: float
    sqnr_db: float | None
    nan_samples: int
    inf_samples: int
    class_drops: tuple[ClassDrop, ...] = ()
    distinct: int = 0
    effective: float = 0.0
    constant: bool = False
    contradicted: int = 0
    silent: tuple[str, ...] = ()

    @property
    def repeats(self) -> str:
        """What is repeated among the samples, in words; empty where next to nothing is."""
        if self.effective >= _ALL_DIFFERENT * self.samples:
            return ""
        uneven = self.effective < _ALL_DIFFERENT * self.distinct
        worth = f", unevenly: they are worth {self.effective:.0f}" if uneven else ""
        return f"only {self.distinct} of the {self.samples} images are different{worth}"

    @property
    def contradictions(self) -> str:
        """How many labels contradict each other, in words; empty where next to none do."""
        if self.contradicted <= (1 - _ALL_DIFFERENT) * self.samples:
            return ""
        share = 100 * self.contradicted / self.samples
        return f"{self.contradicted} samples ({share:.1f} %) show images under two or more labels"

    @property
    def worse_classes(self) -> tuple[ClassDrop, ...]:
        """Classes that lose more than chance explains, all classes taken together."""
        return tuple(c for c in self.class_drops if c.p_value <= 1 - self.confidence)

    def to_dict(self) -> dict[str, object]:
        """As plain JSON values, with the field names of ``report.json``."""
        return {
            "samples": self.samples,
            "distinct_images": self.distinct,
            "contradicted_samples": self.contradicted,
            "confidence": self.confidence,
            "baseline_top1": self.baseline_top1,
            "top1": self.top1,
            "top1_interval": list(self.top1_interval),
            "baseline_top5": self.baseline_top5,
            "top5": self.top5,
            "drop_pp": self.drop_pp,
            "drop_lower_pp": self.drop_lower_pp,
            "drop_upper_pp": self.drop_upper_pp,
            "agreement": self.agreement,
            "flips": {"lost": self.flips.lost, "gained": self.flips.gained},
            "p_value": self.p_value,
            "sqnr_db": self.sqnr_db,
            "nan_samples": self.nan_samples,
            "inf_samples": self.inf_samples,
            "worse_classes": [vars(c).copy() for c in self.worse_classes],
        }


def compare(
    baseline: Predictions, candidate: Predictions, *, confidence: float = 0.95
) -> Comparison:
    """Compares two models sample by sample.

    Args:
        baseline: Answers of the model to be matched; all its logits must be finite.
        candidate: Answers of the model under test, for the same samples in the same order.
        confidence: One-sided confidence of the bounds on the drop, from 0.5 to below 1.

    Raises:
        DataError: The two did not answer the same labelled samples.
        ModelError: The number of classes differs, or the baseline gives NaN or Inf.
        UsageError: The confidence makes no sense.
    """
    _check_pairs(baseline, candidate)
    right, candidate_right = baseline.correct, candidate.correct
    lost, gained = right & ~candidate_right, ~right & candidate_right
    flips = Flips(int(lost.sum()), int(gained.sum()))
    samples = baseline.samples
    groups = same_image_groups(baseline, candidate)
    unsure = contradicted_samples(groups, baseline.labels)
    other = unsure & (baseline.predicted != candidate.predicted)
    effective = effective_samples(groups)
    drops = _class_drops(baseline, lost, gained, groups)
    nans = np.isnan(candidate.logits).any(axis=1)
    never = [d for d in drops if d.p_value <= 1 - confidence and d.label not in candidate.predicted]
    return Comparison(
        samples=samples,
        confidence=confidence,
        baseline_top1=float(right.mean()),
        top1=float(candidate_right.mean()),
        top1_interval=wilson_interval(
            int(candidate_right.sum()), samples, confidence, effective=effective
        ),
        baseline_top5=top_k(baseline, 5),
        top5=top_k(candidate, 5),
        drop_pp=100 * (flips.lost - flips.gained) / samples,
        drop_lower_pp=100
        * drop_lower(
            int((lost & ~unsure).sum()),
            int((gained & ~unsure | other).sum()),
            samples,
            confidence,
            effective=effective,
        ),
        drop_upper_pp=100
        * drop_upper(
            int((lost & ~unsure | other).sum()),
            int((gained & ~unsure).sum()),
            samples,
            confidence,
            effective=effective,
        ),
        agreement=float((baseline.predicted == candidate.predicted).mean()),
        flips=flips,
        p_value=mcnemar_exact(*_net(groups, lost, gained)),
        sqnr_db=finite_sqnr_db(
            baseline.logits[candidate.finite], candidate.logits[candidate.finite]
        ),
        nan_samples=int(nans.sum()),
        inf_samples=int((~candidate.finite & ~nans).sum()),
        class_drops=drops,
        distinct=len(np.unique(groups)),
        effective=effective,
        constant=_constant(baseline, candidate),
        contradicted=int(unsure.sum()),
        silent=tuple(drop.name for drop in never),
    )


def same_image_groups(baseline: Predictions, candidate: Predictions) -> NDArray[np.int64]:
    """Which samples show the same image, ``(N,)``; each its own where nothing tells."""
    sketches = baseline.sketches if candidate.sketches is None else candidate.sketches
    if sketches is None:
        return np.arange(baseline.samples)
    return same_images(sketches, baseline.logits)


def _net(
    groups: NDArray[np.int64], lost: NDArray[np.bool_], gained: NDArray[np.bool_]
) -> tuple[int, int]:
    """Images lost and gained, each counted once whatever its number of samples."""
    net = np.bincount(groups, weights=lost.astype(float) - gained)
    return int((net > 0).sum()), int((net < 0).sum())


def _constant(baseline: Predictions, candidate: Predictions) -> bool:
    """Whether all images get one answer, to the class or up to noise, that had several."""
    finite = candidate.finite
    if not finite.any():
        return False
    first = candidate.predicted[finite][0]
    if (candidate.predicted[finite] == first).all():
        return bool((baseline.predicted != first).any())
    own, other = (
        float(p.logits[finite].astype(np.float64).var(axis=0).sum()) for p in (candidate, baseline)
    )
    return own < _CONSTANT * other


def finite_sqnr_db(reference: NDArray[np.float32], other: NDArray[np.float32]) -> float | None:
    """:func:`edgeres.sqnr.sqnr_db`, ``None`` where no finite number says it."""
    value = sqnr_db(reference, other)
    return value if math.isfinite(value) else None


def top_k(predictions: Predictions, k: int) -> float | None:
    """Share of samples with the label among the ``k`` largest logits, in [0, 1].

    ``None`` where there are not more than ``k`` classes. Among equal logits the lower class number
    comes first; a sample with NaN or Inf counts as wrong.
    """
    if predictions.classes <= k:
        return None
    rows = np.arange(predictions.samples)
    own = predictions.logits[rows, predictions.labels][:, None]
    classes = np.arange(predictions.classes)[None, :]
    before = (predictions.logits > own) | (
        (predictions.logits == own) & (classes < predictions.labels[:, None])
    )
    return float(((before.sum(axis=1) < k) & predictions.finite).mean())


def _class_drops(
    baseline: Predictions,
    lost: NDArray[np.bool_],
    gained: NDArray[np.bool_],
    groups: NDArray[np.int64],
) -> tuple[ClassDrop, ...]:
    size = baseline.classes
    counts = np.bincount(baseline.labels, minlength=size)
    losses = np.bincount(baseline.labels[lost], minlength=size)
    gains = np.bincount(baseline.labels[gained], minlength=size)
    present = [label for label in range(size) if counts[label]]
    p_values = holm(
        [
            mcnemar_exact(*_net(groups[own], lost[own], gained[own]), "greater")
            if losses[label]
            else 1.0
            for label in present
            for own in [baseline.labels == label]
        ]
    )
    drops = [
        ClassDrop(
            label=label,
            name=baseline.class_names[label] if baseline.class_names else str(label),
            samples=int(counts[label]),
            drop_pp=100 * float(losses[label] - gains[label]) / float(counts[label]),
            lost=int(losses[label]),
            gained=int(gains[label]),
            p_value=p_value,
        )
        for label, p_value in zip(present, p_values, strict=True)
    ]
    return tuple(sorted(drops, key=lambda drop: (-drop.drop_pp, drop.label)))


def _check_pairs(baseline: Predictions, candidate: Predictions) -> None:
    who = f"{candidate.name or 'candidate'} against {baseline.name or 'baseline'}"
    if baseline.classes != candidate.classes:
        raise ModelError(
            f"{who}: the baseline has {baseline.classes} classes, the candidate "
            f"{candidate.classes}.",
            hint="Compare an engine with the model that it was made from.",
        )
    if (
        baseline.data_fingerprint
        and candidate.data_fingerprint
        and baseline.data_fingerprint != candidate.data_fingerprint
    ):
        raise DataError(
            f"{who}: the baseline was made on another data set "
            f"({baseline.data_fingerprint[:12]} against {candidate.data_fingerprint[:12]}).",
            hint="Give --baseline the FP32 model (baseline/model.onnx of the run), to answer anew.",
        )
    if not np.array_equal(baseline.labels, candidate.labels):
        raise DataError(
            f"{who}: expected the same labels in the same order, got {baseline.samples} and "
            f"{candidate.samples} samples that differ.",
            hint="Make both on the same data set.",
        )
    if not baseline.finite.all():
        raise ModelError(
            f"{baseline.name or 'baseline'}: {int((~baseline.finite).sum())} of "
            f"{baseline.samples} outputs have NaN or Inf.",
            hint="Check the weights and the preprocessing of the FP32 model.",
        )
