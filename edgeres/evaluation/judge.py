"""An engine's answers against its baseline's, for any task: metrics, bounds and what they mean."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from edgeres.errors import DataError, ModelError
from edgeres.evaluation.distinct import same_images
from edgeres.evaluation.gates import SAME_FOR_ALL
from edgeres.evaluation.task_baseline import metrics_of, without_figure
from edgeres.recipe.gates import Limits
from edgeres.sqnr import sqnr_db
from edgeres.tasks.answers import Answers
from edgeres.tasks.check import Check, Outcome
from edgeres.tasks.decision import Gate, floor_check, metric_checks
from edgeres.tasks.difference import difference
from edgeres.tasks.kept import SAME
from edgeres.tasks.metric import Difference, Metric
from edgeres.tasks.task import Task

_CONSTANT = 1e-4  # variance of the answers over the samples, as a share of the baseline's


@dataclass(frozen=True)
class MetricPart:
    """One metric of an engine, as in ``report.json``.

    Attributes:
        title: What people call it.
        unit: Of all figures here.
        fp32: Of the baseline; ``None`` where the metric is how near the engine is to it.
        engine: Of the engine.
        drop: How much worse the engine is, negative where it is better.
        drop_lower: One-sided lower confidence bound of it.
        drop_upper: One-sided upper confidence bound of it.
        higher_is_better: Which way is good.
        verdict: Of the gate on it; ``None`` where it is not gated.
        limit: That gate's limit.
    """

    title: str
    unit: str
    fp32: float | None
    engine: float
    drop: float
    drop_lower: float
    drop_upper: float
    higher_is_better: bool
    verdict: Outcome | None = None
    limit: float | None = None


@dataclass(frozen=True)
class OutputPart:
    """How near one output of an engine is to its baseline's.

    Attributes:
        sqnr_db: Energy of the baseline's output over that of the difference; ``None`` where they
            are equal to the last bit or none is finite.
        cosine: Mean cosine of the angle between the two, sample by sample.
        max_deviation: Largest difference of any number, over the baseline's largest.
    """

    sqnr_db: float | None
    cosine: float
    max_deviation: float


@dataclass(frozen=True)
class Judgement:
    """What an engine's answers are worth against a baseline.

    Attributes:
        samples: Number of samples.
        confidence: One-sided confidence of the bounds.
        metrics: By name, the gated ones first.
        outputs: By name.
        checks: One for each gate on a metric.
        broken: Samples with NaN or Inf among the outputs.
        constant: Whether the engine answers the same for all, and the baseline does not.
        notes: Metrics that the samples cannot tell, a sentence each.
    """

    samples: int
    confidence: float
    metrics: Mapping[str, MetricPart]
    outputs: Mapping[str, OutputPart]
    checks: tuple[Check, ...] = field(default=())
    broken: int = 0
    constant: bool = False
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, object]:
        """As plain JSON values, with the field names of ``report.json``."""
        return {
            "samples": self.samples,
            "confidence": self.confidence,
            "metrics": {name: vars(part).copy() for name, part in self.metrics.items()},
            "outputs": {name: vars(part).copy() for name, part in self.outputs.items()},
            "broken_samples": self.broken,
            "notes": list(self.notes),
        }


def judge(task: Task, baseline: Answers, candidate: Answers, limits: Limits) -> Judgement:
    """Compares two models sample by sample.

    Args:
        task: What the outputs mean.
        baseline: Answers of the model to be matched.
        candidate: Answers of the model under test, for the same samples in the same order.
        limits: What is allowed.

    Raises:
        DataError: The two did not answer the same samples.
        ModelError: They are not models of the same outputs, or the baseline gives NaN or Inf.
        UsageError: A gate on a metric that the task does not have.
    """
    _check_pairs(baseline, candidate)
    task = task.for_outputs(list(baseline.outputs))
    gated = limits.gated or task.gated
    by_name = metrics_of(task, limits)
    lacking = without_figure(by_name, baseline, (*gated, *limits.floor))
    groups = _groups(baseline, candidate)
    same = {} if groups is None else {SAME: groups}
    at = {
        name: partial(
            difference,
            by_name[name],
            {**baseline.rows, **same},
            {**candidate.rows, **same},
            groups=groups,
        )
        for name in dict.fromkeys((*gated, *by_name))
        if name not in lacking
    }
    found: dict[str, Difference] = {}
    for name, one in at.items():
        try:
            found[name] = one(confidence=limits.confidence)
        except DataError as error:  # too rare a class for resampled sets
            if name in (*gated, *limits.floor):
                raise
            lacking[name] = f"{by_name[name].title} is left out: {error.message}"
    gates = [
        Gate(
            by_name[name],
            found[name],
            # how near an output must be is a floor, not a loss
            None if by_name[name].closeness is not None else limits.drop_of(name),
            at[name],
        )
        for name in gated
        if by_name[name].closeness is None or name not in limits.floor
    ]
    checks = metric_checks(gates)
    checks += [floor_check(by_name[n], found[n], floor) for n, floor in limits.floor.items()]
    broken = int((~candidate.finite).sum())
    constant = _constant(baseline, candidate)
    if broken:
        reason = f"{broken} of {candidate.samples} answers hold NaN or Inf: the engine is broken."
        checks = [Check("outputs", "fail", reason), *checks]
    if constant:
        checks = [Check("outputs", "fail", f"the engine {SAME_FOR_ALL}."), *checks]
    verdicts = {check.name: check for check in checks}
    return Judgement(
        samples=baseline.samples,
        confidence=limits.confidence,
        metrics={
            name: _part(by_name[name], one, verdicts.get(name)) for name, one in found.items()
        },
        outputs={
            name: _distance(values, candidate.outputs[name])
            for name, values in baseline.outputs.items()
        },
        checks=tuple(checks),
        broken=broken,
        constant=constant,
        notes=tuple(lacking.values()),
    )


def _part(metric: Metric, found: Difference, check: Check | None) -> MetricPart:
    return MetricPart(
        title=metric.title,
        unit=metric.unit,
        fp32=found.fp32,
        engine=found.engine,
        drop=found.drop,
        drop_lower=found.lower,
        drop_upper=found.upper,
        higher_is_better=metric.higher_is_better,
        verdict=None if check is None else check.outcome,
        limit=None if check is None else check.limit,
    )


def _distance(reference: NDArray[np.float32], other: NDArray[np.float32]) -> OutputPart:
    good = np.isfinite(other).all(axis=1)
    one, two = reference[good].astype(np.float64), other[good].astype(np.float64)
    decibels = sqnr_db(reference[good], other[good])
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(two, axis=1)
    known = lengths > 0
    cosines = (one * two).sum(axis=1)[known] / lengths[known]
    largest = float(np.abs(one).max(initial=0.0))
    apart = float(np.abs(one - two).max(initial=0.0))
    return OutputPart(
        sqnr_db=decibels if math.isfinite(decibels) else None,
        cosine=float(cosines.mean()) if len(cosines) else 0.0,
        max_deviation=apart / largest if largest else apart,
    )


def _constant(baseline: Answers, candidate: Answers) -> bool:
    """Whether all samples get one answer, up to noise, that had several."""
    good = candidate.finite
    if good.sum() < 2:
        return False
    return all(
        _variance(candidate.outputs[name][good]) < _CONSTANT * _variance(values[good])
        for name, values in baseline.outputs.items()
    )


def _variance(values: NDArray[np.float32]) -> float:
    return float(values.astype(np.float64).var(axis=0).sum())


def _groups(baseline: Answers, candidate: Answers) -> NDArray[np.int64] | None:
    """Which samples show the same input; ``None`` where nothing tells."""
    sketches = baseline.sketches if candidate.sketches is None else candidate.sketches
    if sketches is None:
        return None
    return same_images(sketches, np.concatenate(list(baseline.outputs.values()), axis=1))


def _check_pairs(baseline: Answers, candidate: Answers) -> None:
    who = f"{candidate.name or 'candidate'} against {baseline.name or 'baseline'}"
    shapes = [{name: v.shape[1:] for name, v in a.outputs.items()} for a in (baseline, candidate)]
    if shapes[0] != shapes[1]:
        raise ModelError(
            f"{who}: the outputs are not the same: {shapes[0]} and {shapes[1]}.",
            hint="Compare an engine with the model that it was made from.",
        )
    prints = {a.data_fingerprint for a in (baseline, candidate)} - {""}
    if len(prints) > 1 or baseline.samples != candidate.samples:
        raise DataError(
            f"{who}: the two answered other data: {baseline.samples} and {candidate.samples} "
            "samples.",
            hint="Give --baseline the FP32 model (baseline/model.onnx of the run), to answer anew.",
        )
    if not baseline.finite.all():
        raise ModelError(
            f"{baseline.name or 'baseline'}: {int((~baseline.finite).sum())} of "
            f"{baseline.samples} outputs have NaN or Inf.",
            hint="Check the weights and the preprocessing of the FP32 model.",
        )
