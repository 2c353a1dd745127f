"""What every runner that takes numpy arrays does before an engine sees them: check the feeds.

An engine that gets a wrong name, type or size may answer with nonsense or crash in native code.
:class:`CheckedRunner` checks once, in one place; a backend writes ``_infer`` and ``_close``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

import numpy as np

from edgeres.backends.base import Array, BatchLimits
from edgeres.errors import DataError, ModelError, UsageError
from edgeres.graph.summary import TensorSpec
from edgeres.system.closing import Closing


class CheckedRunner(Closing):
    """A loaded engine with checked feeds; see :class:`edgeres.backends.base.Runner`."""

    def __init__(self, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> None:
        self._inputs = inputs
        self._outputs = outputs
        self._open = True

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Inputs in the engine's order."""
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Outputs in the engine's order."""
        return self._outputs

    @property
    def batch_limits(self) -> BatchLimits:
        """The one batch size of a fixed engine, else any."""
        fixed = [s.shape[0] for s in self._inputs if s.shape and s.shape[0] is not None]
        return BatchLimits(max(fixed), min(fixed)) if fixed else BatchLimits()

    def infer(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Runs the engine once; feeds and outputs are keyed by tensor name.

        Raises:
            DataError: A feed is missing, not an input, or of a wrong dtype or shape.
            UsageError: The runner is closed.
            StageError: The engine failed.
        """
        if not self._open:
            raise UsageError("the engine was closed.", hint="Load it again to run it.")
        check_names(self._inputs, feeds)
        for spec in self._inputs:
            check_feed(spec, feeds[spec.name])
        return self._infer(feeds)

    def close(self) -> None:
        """Frees the engine; a second call does nothing."""
        if self._open:
            self._open = False
            self._close()

    @abstractmethod
    def _infer(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Runs the engine on checked feeds."""

    @abstractmethod
    def _close(self) -> None:
        """Drops what the engine holds; called once."""


def check_names(inputs: tuple[TensorSpec, ...], feeds: Mapping[str, object]) -> None:
    """Compares the names of the feeds with those of the engine's inputs.

    Raises:
        DataError: A feed is missing, or is no input.
    """
    for spec in inputs:
        if feeds.get(spec.name) is None:
            raise DataError(
                f"the engine's input {spec.name} is missing.", hint=f"Feed {_written(spec)}."
            )
    odd = sorted(set(feeds) - {spec.name for spec in inputs})
    if odd:
        known = ", ".join(spec.name for spec in inputs)
        raise DataError(
            f"the engine has no input {', '.join(odd)}.", hint=f"Its inputs are {known}."
        )


def check_feed(spec: TensorSpec, feed: Array) -> None:
    """Compares an array with an input of the engine.

    Raises:
        DataError: It is no array, or its dtype or shape differs.
    """
    if not isinstance(feed, np.ndarray):
        raise DataError(
            f"input {spec.name}: expected an array of {spec.dtype}, got {type(feed).__name__}.",
            hint="Convert it first; the engine does not.",
        )
    check_form(spec, str(feed.dtype), feed.shape)


def check_form(spec: TensorSpec, dtype: str, shape: tuple[int, ...]) -> None:
    """Compares type and shape of a tensor with an input of the engine.

    Raises:
        DataError: One of them differs.
    """
    if dtype != spec.dtype:
        raise DataError(
            f"input {spec.name}: expected an array of {spec.dtype}, got {dtype}.",
            hint="Convert it first; the engine does not.",
        )
    fits = len(shape) == len(spec.shape) and all(
        got == size if size is not None else got > 0
        for size, got in zip(spec.shape, shape, strict=True)
    )
    if not fits:
        raise DataError(
            f"input {spec.name}: expected {_written(spec)}, got {dtype} {shape}.",
            hint="Fit the preprocessing to the model.",
        )


def zero_feeds(inputs: tuple[TensorSpec, ...], *, batch: int = 1) -> dict[str, Array]:
    """Zeros for every input, for runs whose values do not matter.

    Args:
        inputs: Inputs of an engine.
        batch: First size where it is dynamic.

    Raises:
        ModelError: An input has a dynamic size apart from the first.
    """
    feeds: dict[str, Array] = {}
    for spec in inputs:
        sizes = [size for size in spec.shape[1:] if size is not None]
        if len(sizes) != len(spec.shape[1:]):
            raise ModelError(
                f"input {spec.name}: expected fixed sizes apart from the batch, "
                f"got {_written(spec)}.",
                hint="Import the model with fixed sizes.",
            )
        first = [batch if size is None else size for size in spec.shape[:1]]
        feeds[spec.name] = np.zeros([*first, *sizes], spec.dtype)
    return feeds


def _written(spec: TensorSpec) -> str:
    sizes = ", ".join("N" if size is None else str(size) for size in spec.shape)
    return f"{spec.dtype} ({sizes})"
