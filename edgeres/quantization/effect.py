"""What some quantization does to a network's outputs: noise, other answers, a worse figure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeres.data.targets import Targets
from edgeres.errors import ModelError, UsageError
from edgeres.graph.summary import TensorSpec
from edgeres.sqnr import EQUAL_DB, bounded_db, ratio_db
from edgeres.tasks.figure import figure
from edgeres.tasks.kept import OUTPUT, kept
from edgeres.tasks.metric import Metric
from edgeres.tasks.task import Task

Given = Mapping[str, NDArray[Any]]
"""Outputs by name, ``(N, ...)``."""


@dataclass(frozen=True)
class Effect:
    """What some quantization does to the outputs, against the FP32 model.

    Attributes:
        sqnr_db: Signal to noise of all outputs, each with the same weight; at most
            :data:`~edgeres.sqnr.EQUAL_DB`.
        agreement: Share of samples with the same class, in [0, 1]; ``None`` where the network is
            no classifier.
        figure: The metric that was asked for, in its own unit; ``None`` without targets.
    """

    sqnr_db: float
    agreement: float | None = None
    figure: float | None = None

    @property
    def noise(self) -> float:
        """Noise power over signal power."""
        return 10 ** (-self.sqnr_db / 10)


@dataclass(frozen=True)
class Judged:
    """The metric by which effects are judged, and what is right for the samples.

    Attributes:
        task: What the outputs mean.
        targets: What is right, ``(N, ...)`` each.
        metric: Name of the metric; empty takes the first that the task gates.
    """

    task: Task
    targets: Targets
    metric: str = ""

    def chosen(self, outputs: Given) -> tuple[Task, tuple[str, ...], Metric]:
        """The task for these outputs, those that it reads, and its metric.

        Raises:
            ModelError: The outputs are not what the task judges.
            UsageError: The task has no such metric.
        """
        specs = [
            TensorSpec(n, (None, *values.shape[1:]), "float32") for n, values in outputs.items()
        ]
        reads = self.task.reads(specs)
        task = self.task.for_outputs(reads)
        wanted = self.metric or task.gated[0]
        by_name = {metric.name: metric for metric in task.metrics}
        if wanted not in by_name:
            raise UsageError(
                f"{task.name} has no metric {wanted!r}.", hint=f"It has: {', '.join(by_name)}."
            )
        return task, reads, by_name[wanted]


@dataclass
class Tally:
    """Sums over samples of what an :class:`Effect` says.

    Attributes:
        judged: The metric; ``None`` where there are no targets.
        classes: Whether the network is a classifier.
    """

    judged: Judged | None = None
    classes: bool = True
    _signal: dict[str, float] = field(default_factory=dict)
    _noise: dict[str, float] = field(default_factory=dict)
    _rows: tuple[dict[str, list[NDArray[Any]]], ...] = field(default_factory=lambda: ({}, {}))
    _agreeing: int = 0
    _count: int = 0
    _finite: bool = True
    _metric: Metric | None = None

    def add(self, exact: Given, found: Given) -> None:
        """Counts some samples in, ``(n, ...)`` of each output; those of both models.

        Raises:
            DataError: Targets that do not fit the outputs.
            ModelError: The outputs are not what the task judges, or several where one with class
                scores is expected.
        """
        if self.classes and len(exact) != 1:
            raise ModelError(
                f"expected one output with class scores, got {len(exact)}: {', '.join(exact)}.",
                hint="Say what they mean: `--task outputs`, or `task:` of a recipe.",
            )
        start, self._count = self._count, self._count + len(next(iter(exact.values())))
        flat = {n: (_flat(exact[n]), _flat(found[n])) for n in exact}
        sound = np.logical_and.reduce([np.isfinite(own).all(axis=1) for _, own in flat.values()])
        self._finite &= bool(sound.all())
        for name, (whole, own) in flat.items():
            signal = float(np.square(whole.astype(np.float64)).sum())
            noise = float(np.square(whole[sound].astype(np.float64) - own[sound]).sum())
            self._signal[name] = self._signal.get(name, 0.0) + signal
            self._noise[name] = self._noise.get(name, 0.0) + noise
        if self.classes:
            ((whole, own),) = flat.values()
            self._agreeing += int(((whole.argmax(axis=1) == own.argmax(axis=1)) & sound).sum())
        if self.judged is not None:
            self._keep(self.judged, exact, found, slice(start, self._count))

    def _keep(self, judged: Judged, exact: Given, found: Given, place: slice) -> None:
        task, reads, self._metric = judged.chosen(exact)
        targets = {name: values[place] for name, values in judged.targets.items()}
        for rows, outputs in zip(self._rows, (exact, found), strict=True):
            read = {name: outputs[name] for name in reads}
            own = dict(task.rows(read, targets))
            own |= {f"{OUTPUT}{name}": kept(values) for name, values in read.items()}
            for name, values in own.items():
                rows.setdefault(name, []).append(values)

    @property
    def measures(self) -> tuple[str, str]:
        """What the figure is and its unit; empty without one."""
        return ("", "") if self._metric is None else (self._metric.title, self._metric.unit)

    def effect(self) -> Effect:
        """Of all samples so far."""
        ratios = [ratio_db(self._signal[name], self._noise[name]) for name in self._signal]
        share = sum(10 ** (-ratio / 10) for ratio in ratios) / len(ratios)
        level = ratios[0] if len(ratios) == 1 else ratio_db(1.0, share)
        found = None
        if self._metric is not None:
            exact, own = (
                {name: np.concatenate(values) for name, values in rows.items()}
                for rows in self._rows
            )
            found = figure(self._metric, exact, own)
        return Effect(
            sqnr_db=bounded_db(level if self._finite else -EQUAL_DB),
            agreement=self._agreeing / self._count if self.classes else None,
            figure=found,
        )


def effect_of(
    exact: Given, found: Given, judged: Judged | None = None, *, classes: bool = True
) -> Effect:
    """Compares outputs ``(N, ...)`` with the FP32 model's.

    A sample with NaN or Inf never agrees, and has the worst score of all.
    """
    tally = Tally(judged, classes)
    tally.add(exact, found)
    return tally.effect()


def _flat(values: NDArray[Any]) -> NDArray[Any]:
    return values.reshape(len(values), -1)
