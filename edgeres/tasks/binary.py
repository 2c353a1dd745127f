"""``binary``: yes or no, from one probability, one logit or two scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from edgeres.data.targets import Targets
from edgeres.errors import DataError, ModelError
from edgeres.graph.summary import TensorSpec
from edgeres.recipe.block import Block, OpenShare
from edgeres.tasks.metric import Chance, Metric, Rows, Whole
from edgeres.tasks.ranking import roc_area
from edgeres.tasks.reading import (
    are_distributions,
    are_shares,
    flat_output,
    one_output,
    one_target,
    whole_numbers,
)
from edgeres.tasks.task import Outputs, Task

_SCORES = "scores"
_LABEL = "label"

_GUESSED = Chance(
    lambda rows: 0.5,
    "Check the preprocessing, and that 1 stands for yes: far below 50 % the two are exchanged.",
)

Form = Literal["auto", "probability", "logit"]


class BinarySettings(Block):
    """What a recipe says of it."""

    threshold: OpenShare = Field(default=0.5, description="Probability from which it is a yes.")
    form: Form = Field(
        default="auto",
        description="What the output is; told by its numbers where left out: probabilities lie in "
        "[0, 1], and two of them add up to 1.",
    )


@dataclass(frozen=True)
class BinaryTask(Task):
    """Accuracy at a threshold, and the area under the ROC curve."""

    settings: BinarySettings

    @property
    def name(self) -> str:
        """Name of the task."""
        return "binary"

    @property
    def needs_targets(self) -> bool:
        """Without labels nothing is right or wrong."""
        return True

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Shares in percent."""
        right, area = partial(_right, self.settings), _area
        return (
            Metric("accuracy", "accuracy", "pp", True, 0.5, scores=right, factor=100.0),
            Metric(
                "auc", "area under ROC", "pp", True, 0.5, value=area, factor=100.0, chance=_GUESSED
            ),
        )

    def reads(self, outputs: Sequence[TensorSpec]) -> tuple[str, ...]:
        """The one output.

        Raises:
            ModelError: There are several.
        """
        return one_output(self.name, outputs, "one or two scores")

    def rows(self, outputs: Outputs, targets: Targets) -> Rows:
        """The scores, ``(N, 1)`` or ``(N, 2) float64``, and the labels ``(N,) int64``.

        Raises:
            DataError: Targets that are not 0 or 1, one for each sample.
            ModelError: The output has more than two numbers.
        """
        scores = _checked(flat_output(outputs))
        target = one_target(self.name, targets, "0 or 1")
        if target.shape not in ((len(scores),), (len(scores), 1)):
            raise DataError(
                f"binary: expected 0 or 1 for each of {len(scores)} samples, got targets "
                f"{target.shape}.",
                hint="Use `task: {name: multilabel}` for several answers a sample.",
            )
        label = whole_numbers(self.name, target.reshape(-1), 0, 1)
        return {_SCORES: scores, _LABEL: label}

    def distributions(self, rows: Rows) -> Mapping[str, Mapping[str, NDArray[np.float64]]]:
        """Probability of yes, where that is right and where it is not."""
        odds = _odds(self.settings, rows[_SCORES])
        with np.errstate(over="ignore"):
            chance = 1 / (1 + np.exp(-odds))
        yes = rows[_LABEL] == 1
        return {"probability of yes": {"no is right": chance[~yes], "yes is right": chance[yes]}}

    def text(self, outputs: Outputs, class_names: Sequence[str]) -> str:
        """Yes or no, or the two classes' names, with the probability of yes."""
        odds = _odds(self.settings, _checked(flat_output(outputs)))[0]
        with np.errstate(over="ignore"):
            chance = 1 / (1 + np.exp(-odds))
        names = tuple(class_names) if len(class_names) == 2 else ("no", "yes")
        return f"{names[int(chance >= self.settings.threshold)]} {chance:.4g}"


def make_task(settings: dict[str, Any]) -> BinaryTask:
    """Makes the task.

    Raises:
        UsageError: A key or a value that makes no sense.
    """
    return BinaryTask(BinarySettings(**settings))


def _checked(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    if scores.shape[1] not in (1, 2):
        raise ModelError(
            f"binary: expected one or two numbers for each sample, the output has "
            f"{scores.shape[1]}.",
            hint="Use `task: {name: classification}` or `multilabel`.",
        )
    return scores


def _odds(settings: BinarySettings, scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log-odds of yes, ``(N,)``."""
    two = scores.shape[1] == 2
    form = settings.form
    if form == "auto":
        share = are_distributions(scores) if two else are_shares(scores)
        form = "probability" if share else "logit"
    if form == "logit":
        return scores[:, 1] - scores[:, 0] if two else scores[:, 0]
    chance = scores[:, 1] / scores.sum(axis=1) if two else scores[:, 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.log(chance / (1 - chance)))


def _right(settings: BinarySettings, rows: Rows) -> NDArray[np.float64]:
    limit = math.log(settings.threshold / (1 - settings.threshold))
    return np.asarray((_odds(settings, rows[_SCORES]) >= limit) == rows[_LABEL], dtype=np.float64)


def _area(rows: Rows) -> Whole:
    scores = rows[_SCORES]
    ranked = scores[:, 1] - scores[:, 0] if scores.shape[1] == 2 else scores[:, 0]
    return roc_area(ranked, rows[_LABEL] == 1)
