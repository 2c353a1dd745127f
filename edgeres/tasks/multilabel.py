"""``multilabel``: several answers of yes or no for each sample."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from edgeres.data.targets import Targets
from edgeres.errors import DataError
from edgeres.graph.summary import TensorSpec
from edgeres.recipe.block import Block, OpenShare
from edgeres.tasks.binary import Form
from edgeres.tasks.metric import Chance, Counts, Metric, Rows, Whole
from edgeres.tasks.ranking import mean_average_precision
from edgeres.tasks.reading import are_shares, flat_output, one_output, one_target, whole_numbers
from edgeres.tasks.task import Outputs, Task

_SCORES = "scores"
_LABELS = "labels"
_HINT = "Check the preprocessing, and the order of the classes."


class MultilabelSettings(Block):
    """What a recipe says of it."""

    threshold: OpenShare = Field(default=0.5, description="Probability from which it is a yes.")
    form: Form = Field(
        default="auto",
        description="What the output is; told by its numbers where left out: probabilities all lie "
        "in [0, 1].",
    )


@dataclass(frozen=True)
class MultilabelTask(Task):
    """Mean average precision over the classes, and F1 of all answers at a threshold."""

    settings: MultilabelSettings

    @property
    def name(self) -> str:
        """Name of the task."""
        return "multilabel"

    @property
    def needs_targets(self) -> bool:
        """Without labels nothing is right or wrong."""
        return True

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Shares in percent. ``f1`` counts the answers of all classes together (micro)."""
        f1 = partial(_f1, self.settings)
        return (
            Metric(
                "map",
                "mean average precision",
                "pp",
                True,
                0.5,
                value=_map,
                factor=100.0,
                chance=Chance(_shares, _HINT),
            ),
            Metric("f1", "F1", "pp", True, 0.5, value=f1, factor=100.0),
        )

    def reads(self, outputs: Sequence[TensorSpec]) -> tuple[str, ...]:
        """The one output.

        Raises:
            ModelError: There are several.
        """
        return one_output(self.name, outputs, "a score for each class")

    def rows(self, outputs: Outputs, targets: Targets) -> Rows:
        """Scores ``(N, K) float32`` and labels ``(N, K) int8``: 1, 0, or -1 for unknown.

        Raises:
            DataError: Targets of another shape or other numbers.
        """
        scores = flat_output(outputs)
        target = one_target(self.name, targets, "0 or 1 for each class")
        if target.reshape(len(target), -1).shape != scores.shape:
            raise DataError(
                f"multilabel: the network has {scores.shape[1]} classes, expected targets "
                f"{scores.shape}, got {target.shape}.",
                hint="Give 0, 1 or -1 (unknown) for each class of each sample.",
            )
        labels = whole_numbers(self.name, target.reshape(scores.shape), -1, 1)
        return {_SCORES: scores.astype(np.float32), _LABELS: labels.astype(np.int8)}

    def text(self, outputs: Outputs, class_names: Sequence[str]) -> str:
        """The classes that are a yes, with their scores; ``none`` where there is none."""
        scores = flat_output(outputs)[0]
        yes = [int(k) for k in np.flatnonzero(scores >= _limit(self.settings, scores))]
        named = [class_names[k] if k < len(class_names) else f"class {k}" for k in yes]
        return (
            ", ".join(f"{name} {scores[k]:.4g}" for name, k in zip(named, yes, strict=True))
            or "none"
        )


def make_task(settings: dict[str, Any]) -> MultilabelTask:
    """Makes the task.

    Raises:
        UsageError: A key or a value that makes no sense.
    """
    return MultilabelTask(MultilabelSettings(**settings))


def _map(rows: Rows) -> Whole:
    return mean_average_precision(rows[_SCORES], rows[_LABELS])


def _shares(rows: Rows) -> float:
    """Mean average precision of one score for everything: how often each class is right."""
    labels = rows[_LABELS]
    known, right = (labels >= 0).sum(axis=0), (labels == 1).sum(axis=0)
    there = right > 0
    share = float((right[there] / known[there]).mean()) if there.any() else math.nan
    return share if share < 1 else math.nan


def _f1(settings: MultilabelSettings, rows: Rows) -> Whole:
    """``2 TP / (2 TP + FP + FN)`` of all known answers; NaN where nothing is said or right."""
    scores, labels = rows[_SCORES], rows[_LABELS]
    yes = (scores >= _limit(settings, scores)) & (labels >= 0)
    hits = (yes & (labels == 1)).sum(axis=1)
    both = yes.sum(axis=1) + (labels == 1).sum(axis=1)

    def figure(counts: Counts) -> float:
        total = float(counts @ both)
        return 2 * float(counts @ hits) / total if total else math.nan

    return figure


def _limit(settings: MultilabelSettings, scores: NDArray[Any]) -> float:
    """The threshold in what the scores are."""
    form = settings.form
    if form == "auto":
        form = "probability" if are_shares(scores) else "logit"
    chance = settings.threshold
    return chance if form == "probability" else math.log(chance / (1 - chance))
