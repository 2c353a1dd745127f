"""What tasks ask of outputs and targets before they judge them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeres.data.targets import Targets
from edgeres.errors import DataError, ModelError
from edgeres.graph.summary import TensorSpec
from edgeres.tasks.task import Outputs

_SUM = 0.1
"""Probabilities in INT8 do not add up to one exactly."""


def one_output(task: str, outputs: Sequence[TensorSpec], what: str) -> tuple[str, ...]:
    """Name of the one output.

    Raises:
        ModelError: There are several, or none.
    """
    if len(outputs) != 1:
        raise ModelError(
            f"{task}: expected one output with {what}, got {len(outputs)}: "
            f"{', '.join(spec.name for spec in outputs)}.",
            hint=f"Name it: `task: {{name: {task}, output: NAME}}`.",
        )
    return (outputs[0].name,)


def flat_output(outputs: Outputs) -> NDArray[np.float64]:
    """The one output as ``(N, D) float64``."""
    (values,) = outputs.values()
    return values.reshape(len(values), -1).astype(np.float64)


def one_target(task: str, targets: Targets, what: str) -> NDArray[Any]:
    """What is right.

    Raises:
        DataError: Nobody has said it.
    """
    target = targets.get("")
    if target is None:
        named = f"; the data has {', '.join(repr(name) for name in targets)}" if targets else ""
        raise DataError(
            f"{task}: expected {what} for each sample, got none{named}.",
            hint=(f"Choose one: `task: {{name: {task}, target: NAME}}`." if targets else "")
            or "Give such data, or `task: {name: outputs}`, which needs no targets.",
        )
    return target


def whole_numbers(
    task: str, target: NDArray[Any], lowest: int = -(2**53), highest: int = 2**53
) -> NDArray[np.int64]:
    """Targets that are numbers of classes; whole numbers in float are taken too.

    Raises:
        DataError: Some are no whole numbers, or out of range.
    """
    numbers = target.dtype.kind in "iub" or (
        target.dtype.kind == "f" and bool((target == np.floor(target)).all())
    )
    if not numbers:
        among = f"whole numbers from {lowest} to {highest}" if highest < 2**53 else "whole numbers"
        raise DataError(
            f"{task}: expected {among} as targets, got {target.dtype} with fractions or NaN.",
            hint="Give classes, or use `task: {name: regression}`.",
        )
    if target.size and (target.min() < lowest or target.max() > highest):
        raise DataError(
            f"{task}: expected targets from {lowest} to {highest}, got {target.min():g} to "
            f"{target.max():g}.",
            hint="Use the data that the network was trained for.",
        )
    return target.astype(np.int64)


def are_distributions(values: NDArray[np.float64]) -> bool:
    """Whether rows ``(N, K)`` are probabilities that add up to one, apart from NaN and Inf."""
    fine = values[np.isfinite(values).all(axis=1)]
    return bool((fine >= -1e-6).all() and (np.abs(fine.sum(axis=1) - 1) < _SUM).all())


def are_shares(values: NDArray[np.float64]) -> bool:
    """Whether all numbers lie in [0, 1], apart from NaN and Inf."""
    fine = values[np.isfinite(values)]
    return bool(((fine >= -1e-6) & (fine <= 1 + 1e-6)).all())


def softmax(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities ``(N, K)`` of scores; NaN where a row holds NaN or Inf."""
    with np.errstate(invalid="ignore", over="ignore"):
        powers = np.exp(values - values.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True))
