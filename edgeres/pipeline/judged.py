"""What the answers of a run are worth: classes by their labels, other tasks by their metrics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from edgeres.evaluation.compare import compare, finite_sqnr_db, top_k
from edgeres.evaluation.gates import accuracy_check
from edgeres.evaluation.judge import Judgement, judge
from edgeres.evaluation.predictions import Predictions
from edgeres.evaluation.statistics import wilson_interval
from edgeres.report.schema import AgreementMatrix, TargetPart, TaskPart
from edgeres.tasks.answers import Answers
from edgeres.tasks.check import Check

if TYPE_CHECKING:
    from edgeres.recipe.gates import Limits
    from edgeres.tasks.task import Task

RunAnswers = Predictions | Answers
"""Class scores, or what a task keeps."""


def judged(
    task: Task | None, dense: RunAnswers, final: RunAnswers, engine: RunAnswers, limits: Limits
) -> tuple[tuple[Check, ...], dict[str, Any]]:
    """Checks of an engine's answers, and the figures that its part of the report has of them.

    Args:
        task: What the outputs mean; ``None`` for a classifier.
        dense: Of the FP32 network that the user brought.
        final: Of the FP32 network that was quantized.
        engine: Of the engine.
        limits: What is allowed.
    """
    if task is None:
        return _classes(classes_of(dense), classes_of(final), classes_of(engine), limits)
    overall = judge(task, rows_of(dense), rows_of(engine), limits)
    quantized = judge(task, rows_of(final), rows_of(engine), limits) if final is not dense else None
    return overall.checks, _task_figures(overall, quantized)


def baseline_figures(
    dense: RunAnswers, limits: Limits, targets: Iterable[TargetPart]
) -> dict[str, Any]:
    """The figures that the report has of the network that the user brought.

    Args:
        dense: Its answers.
        limits: What is allowed.
        targets: The engines; each that ran was held against these answers.
    """
    if isinstance(dense, Answers):
        ran = next((part.metrics for part in targets if part.metrics), {})
        return {"metrics": {n: part.fp32 for n, part in ran.items() if part.fp32 is not None}}
    scores = dense
    right = int(scores.correct.sum())
    return {
        "top1": right / scores.samples,
        "top5": top_k(scores, 5),
        "top1_interval": wilson_interval(right, scores.samples, limits.confidence),
    }


def task_part(task: Task | None, dense: RunAnswers) -> TaskPart:
    """What the report says of the task."""
    if task is None or not isinstance(dense, Answers):
        return TaskPart()
    return TaskPart(task.name, tuple(dense.outputs))


def repeats_of(dense: RunAnswers, confidence: float) -> str:
    """What is repeated among the samples, in words; empty where next to nothing is."""
    if isinstance(dense, Answers):
        return ""
    return compare(dense, dense, confidence=confidence).repeats


def agreement(answers: Mapping[str, RunAnswers]) -> AgreementMatrix | None:
    """All pairs of models that ran; ``None`` where there is only one, or no classes."""
    models = [model for model in answers.values() if isinstance(model, Predictions)]
    if len(models) < 2:
        return None
    return AgreementMatrix(
        names=tuple(answers),
        agreement=tuple(
            tuple(float((a.predicted == b.predicted).mean()) for b in models) for a in models
        ),
        sqnr_db=tuple(
            tuple(
                None if a is b else finite_sqnr_db(*(p.logits[a.finite & b.finite] for p in (a, b)))
                for b in models
            )
            for a in models
        ),
    )


def classes_of(answers: RunAnswers) -> Predictions:
    """The answers of a classifier."""
    assert isinstance(answers, Predictions)
    return answers


def rows_of(answers: RunAnswers) -> Answers:
    """The answers of another task."""
    assert isinstance(answers, Answers)
    return answers


def _classes(
    dense: Predictions, final: Predictions, engine: Predictions, limits: Limits
) -> tuple[tuple[Check, ...], dict[str, Any]]:
    overall = compare(dense, engine, confidence=limits.confidence)
    quantized = compare(final, engine, confidence=limits.confidence)
    return (accuracy_check(overall, limits.max_top1_drop_pp),), {
        "top1": overall.top1,
        "top5": overall.top5,
        "drop_pp": overall.drop_pp,
        "drop_lower_pp": overall.drop_lower_pp,
        "drop_upper_pp": overall.drop_upper_pp,
        "quantization_drop_pp": quantized.drop_pp,
        "quantization_drop_upper_pp": quantized.drop_upper_pp,
        "agreement": quantized.agreement,
        "flips": quantized.flips,
        "sqnr_db": quantized.sqnr_db,
        "nan_samples": quantized.nan_samples,
        "inf_samples": quantized.inf_samples,
    }


def _task_figures(overall: Judgement, quantized: Judgement | None) -> dict[str, Any]:
    nearest = quantized or overall
    worst = [part.sqnr_db for part in nearest.outputs.values() if part.sqnr_db is not None]
    return {
        "metrics": overall.metrics,
        "quantization_drops": {n: part.drop for n, part in nearest.metrics.items()},
        "outputs": nearest.outputs,
        "sqnr_db": min(worst, default=None),
        "nan_samples": overall.broken,
    }
