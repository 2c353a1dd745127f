"""``classification``: one right class for each sample, or one of the heads that gives it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeres.data.targets import Targets
from edgeres.errors import DataError, ModelError, UsageError
from edgeres.graph.summary import TensorSpec
from edgeres.tasks.metric import Chance, Counts, Metric, Rows, Whole
from edgeres.tasks.reading import whole_numbers
from edgeres.tasks.task import Outputs, Task

_RANK = "rank"
_LABEL = "label"
_CLASS = "class"
_TOP = 5
_HINT = "Check the preprocessing, and the order of the classes."


@dataclass(frozen=True)
class ClassificationTask(Task):
    """Top-1, top-5 and balanced accuracy."""

    @property
    def name(self) -> str:
        """Name of the task."""
        return "classification"

    @property
    def needs_targets(self) -> bool:
        """Without labels nothing is right or wrong."""
        return True

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Shares in percent."""
        return (
            Metric(
                "top1",
                "top-1",
                "pp",
                True,
                0.5,
                scores=partial(_within, 1),
                factor=100.0,
                chance=Chance(_most_frequent, _HINT),
            ),
            Metric("top5", "top-5", "pp", True, 0.5, scores=partial(_within, _TOP), factor=100.0),
            Metric("balanced", "balanced accuracy", "pp", True, 1.0, value=_balanced, factor=100.0),
        )

    def reads(self, outputs: Sequence[TensorSpec]) -> tuple[str, ...]:
        """The one output of class scores.

        Raises:
            ModelError: There are several.
        """
        if len(outputs) != 1:
            raise ModelError(
                f"expected one output with class scores, got {len(outputs)}: "
                f"{', '.join(spec.name for spec in outputs)}.",
                hint="Name it: `task: {name: classification, output: NAME}`.",
            )
        return (outputs[0].name,)

    def rows(self, outputs: Outputs, targets: Targets) -> Rows:
        """Label, predicted class, and how many classes score above the right one.

        Raises:
            DataError: No labels, or labels that are no classes of the network.
        """
        (scores,) = outputs.values()
        scores = scores.reshape(len(scores), -1)
        labels = targets.get("")
        if labels is None or labels.ndim != 1:
            raise DataError(
                "classification: expected one class number for each sample, got "
                f"{'none' if labels is None else f'{labels.shape} {labels.dtype}'}.",
                hint="Give labelled data, or `task: {name: outputs}`, which needs no labels.",
            )
        labels = whole_numbers(self.name, labels, 0, scores.shape[1] - 1)
        finite = np.isfinite(scores).all(axis=1)
        own = scores[np.arange(len(scores)), labels][:, None]
        before = (scores > own) | ((scores == own) & (np.arange(scores.shape[1]) < labels[:, None]))
        rank = np.where(finite, before.sum(axis=1), scores.shape[1])
        return {
            _LABEL: labels,
            _CLASS: np.where(finite, scores.argmax(axis=1), -1).astype(np.int64),
            _RANK: rank.astype(np.int64),
        }

    def text(self, outputs: Outputs, class_names: Sequence[str]) -> str:
        """The likeliest class with its score."""
        (scores,) = outputs.values()
        row = scores.reshape(-1)
        best = int(row.argmax())
        name = class_names[best] if best < len(class_names) else f"class {best}"
        return f"{name} {row[best]:.4g}"


def make_task(settings: dict[str, Any]) -> ClassificationTask:
    """Makes the task; it has no settings.

    Raises:
        UsageError: There are some.
    """
    if settings:
        raise UsageError(f"`task`: classification has no key `{next(iter(settings))}`.")
    return ClassificationTask()


def _within(most: int, rows: Rows) -> NDArray[np.float64]:
    return np.asarray(rows[_RANK] < most, dtype=np.float64)


def _most_frequent(rows: Rows) -> float:
    """Share of the class that most samples have."""
    counts = np.bincount(rows[_LABEL])
    return float(counts.max() / counts.sum()) if np.count_nonzero(counts) > 1 else math.nan


def _balanced(rows: Rows) -> Whole:
    """Mean over the classes of the share that is right."""
    labels, right = rows[_LABEL], rows[_RANK] == 0

    def figure(counts: Counts) -> float:
        taken = np.bincount(labels, weights=counts)
        hit = np.bincount(labels, weights=counts * right)
        there = taken > 0
        return float((hit[there] / taken[there]).mean())

    return figure
