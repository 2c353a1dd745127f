"""Is the float network of any task itself believable, and what of the task can its samples tell?"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from edgeres.errors import DataError, ModelError, UsageError
from edgeres.recipe.gates import Limits
from edgeres.tasks.answers import Answers
from edgeres.tasks.metric import Metric
from edgeres.tasks.task import Task

_FLOOR = "Say in `gates: {floor: {NAME: VALUE}}` what it must reach."
_LEAST_SKILL = 0.05  # share of the way from guessing to perfect below which a network knows nothing


def check_answers(
    task: Task, baseline: Answers, limits: Limits, *, untrained: bool = False
) -> tuple[str, ...]:
    """Stops where a baseline cannot be judged against, or a gate is on nothing.

    Args:
        task: What the outputs mean.
        baseline: Answers of the FP32 model.
        limits: What is allowed.
        untrained: Whether it may know nothing.

    Returns:
        What must be left out, a sentence each.

    Raises:
        DataError: It answers no better than somebody who does not look at the samples.
        ModelError: It gives NaN or Inf.
        UsageError: A gate on a metric that the task does not have.
    """
    task = task.for_outputs(list(baseline.outputs))
    by_name = metrics_of(task, limits)
    bad = int((~baseline.finite).sum())
    if bad:
        raise ModelError(
            f"{baseline.name or 'the FP32 model'}: {bad} of {baseline.samples} outputs have NaN or "
            "Inf before quantization.",
            hint="Check the weights and the preprocessing.",
        )
    if not untrained:
        for metric in by_name.values():
            _check_skill(metric, baseline)
    return tuple(without_figure(by_name, baseline, limits.gated or task.gated).values())


def metrics_of(task: Task, limits: Limits) -> dict[str, Metric]:
    """Metrics of a task by name; every gate is on one of them.

    Raises:
        UsageError: One is not, or a loss is allowed of what has none.
    """
    by_name = {metric.name: metric for metric in task.metrics}
    named = limits.max_drop if isinstance(limits.max_drop, dict) else ()
    for name in (*(limits.metric or ()), *named, *limits.floor):
        if name not in by_name:
            raise UsageError(
                f"`gates`: {task.name} has no metric {name!r}.",
                hint=f"It has: {', '.join(by_name)}.",
            )
    for name in named:
        if by_name[name].closeness is not None:
            raise UsageError(
                f"`gates.max_drop`: {name} is how near an output is, which has no loss.",
                hint=_FLOOR,
            )
    gated = limits.gated or task.gated
    if isinstance(limits.max_drop, float) and all(by_name[n].closeness is not None for n in gated):
        raise UsageError(
            f"`gates.max_drop`: {', '.join(gated)} says how near an output is, which has no loss.",
            hint=_FLOOR,
        )
    return by_name


def without_figure(
    metrics: Mapping[str, Metric], baseline: Answers, gated: tuple[str, ...]
) -> dict[str, str]:
    """Metrics that these samples cannot tell, such as AUC of one class, with a sentence each.

    One that is gated is not left out: its gate must not pass by that.
    """
    return {
        name: f"{metric.title} is left out: the {baseline.samples} samples lack what it needs, "
        "e.g. a class."
        for name, metric in metrics.items()
        if name not in gated and metric.value is not None and math.isnan(_figure(metric, baseline))
    }


def _check_skill(metric: Metric, baseline: Answers) -> None:
    if metric.chance is None:
        return
    figure, guessed = _figure(metric, baseline), metric.chance.figure(baseline.rows)
    if not (math.isfinite(figure) and math.isfinite(guessed)):
        return
    perfect = 1.0 if metric.higher_is_better else 0.0
    if (figure - guessed) / (perfect - guessed) >= _LEAST_SKILL:
        return
    unit = "%" if metric.unit == "pp" else metric.unit
    told = [f"{metric.factor * value:.4g} {unit}".rstrip() for value in (figure, guessed)]
    raise DataError(
        f"{baseline.name or 'the FP32 model'}: {metric.title} is {told[0]} on {baseline.samples} "
        f"samples, no better than the {told[1]} that one answer for everything reaches.",
        hint=metric.chance.hint,
    )


def _figure(metric: Metric, baseline: Answers) -> float:
    """Of the baseline itself, in the metric's own range."""
    if metric.scores is not None:
        return float(np.mean(metric.scores(baseline.rows)))
    assert metric.value is not None
    return metric.value(baseline.rows)(np.ones(baseline.samples, dtype=np.int64))
