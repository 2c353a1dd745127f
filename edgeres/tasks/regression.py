"""``regression``: a number or several for each sample, or the expected value of a distribution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from edgeres.data.targets import Targets
from edgeres.errors import DataError, ModelError
from edgeres.graph.summary import TensorSpec
from edgeres.recipe.block import Block, Many
from edgeres.tasks.metric import Chance, Metric, Rows
from edgeres.tasks.reading import are_distributions, flat_output, one_output, one_target, softmax
from edgeres.tasks.task import Outputs, Task

_PREDICTED = "predicted"
_TARGET = "target"


class RegressionSettings(Block):
    """What a recipe says of it."""

    unit: str = Field(default="", description="Unit of the target, as it is shown.")
    tolerance: Annotated[float, Field(gt=0.0)] | None = Field(
        default=None, description="An error of at most so much, in the unit, counts as right."
    )
    expected_value: Many[float] | None = Field(
        default=None,
        min_length=2,
        description="The output is a distribution: what its bins stand for, [lowest, highest] or "
        "a value for each.",
    )


@dataclass(frozen=True)
class RegressionTask(Task):
    """Mean absolute error in the target's unit, and the share within a tolerance."""

    settings: RegressionSettings

    @property
    def name(self) -> str:
        """Name of the task."""
        return "regression"

    @property
    def needs_targets(self) -> bool:
        """Without targets there is no error."""
        return True

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The error; and the share of errors within the tolerance, where one is given.

        The error may grow by a tenth of the tolerance, or else by a hundredth of the range of the
        bins; with neither nobody can say how much is much, and `gates: {max_drop: ...}` has to.
        """
        own = self.settings
        allowed = own.tolerance / 10 if own.tolerance else 0.0
        if not own.tolerance and own.expected_value:
            allowed = (max(own.expected_value) - min(own.expected_value)) / 100
        error = Metric(
            "mae",
            "mean absolute error",
            own.unit,
            False,
            allowed,
            scores=_errors,
            chance=_MIDDLE,
        )
        if own.tolerance is None:
            return (error,)
        return (
            error,
            Metric(
                "within",
                f"share within {own.tolerance:g} {own.unit}".rstrip(),
                "pp",
                True,
                1.0,
                scores=partial(_within, own.tolerance),
                factor=100.0,
            ),
        )

    def reads(self, outputs: Sequence[TensorSpec]) -> tuple[str, ...]:
        """The one output.

        Raises:
            ModelError: There are several, or its size is not that of the bins.
        """
        names = one_output(self.name, outputs, "the predicted numbers")
        bins, shape = self.settings.expected_value, outputs[0].shape[1:]
        if bins and len(bins) > 2 and None not in shape:
            self._bins(int(np.prod([size or 1 for size in shape])))
        return names

    def rows(self, outputs: Outputs, targets: Targets) -> Rows:
        """Predicted and right numbers, ``(N, D) float64``.

        Raises:
            DataError: Targets of another shape, or that are no finite numbers.
            ModelError: The output's size is not that of the bins.
        """
        predicted = self._predicted(outputs)
        target = one_target(self.name, targets, "a number")
        right = target.reshape(len(target), -1)
        if right.shape != predicted.shape or right.dtype.kind not in "iuf":
            raise DataError(
                f"regression: expected targets {predicted.shape} as the network predicts, got "
                f"{target.shape} {target.dtype}.",
                hint="Give one number for each that the network predicts; where its output is a "
                "distribution over bins, say `expected_value: [lowest, highest]`.",
            )
        right = right.astype(np.float64)
        if not np.isfinite(right).all():
            raise DataError(
                f"regression: {int((~np.isfinite(right)).any(axis=1).sum())} of {len(right)} "
                "targets are NaN or Inf.",
                hint="Leave samples out whose target nobody knows.",
            )
        return {_PREDICTED: predicted, _TARGET: right}

    def text(self, outputs: Outputs, class_names: Sequence[str]) -> str:
        """The predicted numbers with their unit."""
        numbers = " ".join(f"{value:.4g}" for value in self._predicted(outputs)[0])
        return f"{numbers} {self.settings.unit}".rstrip()

    def _predicted(self, outputs: Outputs) -> NDArray[np.float64]:
        values = flat_output(outputs)
        if self.settings.expected_value is None:
            return values
        bins = self._bins(values.shape[1])
        if are_distributions(values):
            shares = values / values.sum(axis=1, keepdims=True)
        else:
            shares = softmax(values)
        return np.asarray(shares @ bins)[:, None]

    def _bins(self, count: int) -> NDArray[np.float64]:
        bins = self.settings.expected_value or ()
        if count < 2 or len(bins) not in (2, count):
            raise ModelError(
                f"regression: `expected_value` names {len(bins)} bins, the output has {count}.",
                hint="Give [lowest, highest], or one value for each of the output's numbers.",
            )
        return np.linspace(*bins, count) if len(bins) == 2 else np.array(bins)


def make_task(settings: dict[str, Any]) -> RegressionTask:
    """Makes the task.

    Raises:
        UsageError: A key or a value that makes no sense.
    """
    return RegressionTask(RegressionSettings(**settings))


def _errors(rows: Rows) -> NDArray[np.float64]:
    return np.asarray(np.abs(rows[_PREDICTED] - rows[_TARGET]).mean(axis=1))


def _middle(rows: Rows) -> float:
    """Mean absolute error of the middle of the targets for every sample."""
    target = rows[_TARGET]
    error = float(np.abs(target - np.median(target, axis=0)).mean())
    return error if error > 0 else math.nan


_MIDDLE = Chance(
    _middle,
    "Check the preprocessing, and the column and the unit of the targets; a distribution over bins "
    "needs `expected_value`.",
)


def _within(tolerance: float, rows: Rows) -> NDArray[np.float64]:
    return np.asarray(_errors(rows) <= tolerance, dtype=np.float64)
