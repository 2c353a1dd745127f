"""A runner that computes nothing: what it takes is what calling an engine and timing it takes."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Self

import numpy as np

from edgeres.backends.base import Array, Runner, TensorSpec


class NothingRunner:
    """Answers zeros in the shapes of another runner's outputs, without looking at the input."""

    def __init__(self, like: Runner) -> None:
        self._inputs = like.inputs
        self._outputs = like.outputs

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Inputs of the other runner."""
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Outputs of the other runner."""
        return self._outputs

    def infer(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Makes the outputs anew, as a runtime does; unknown sizes are those of the batch."""
        batch = len(next(iter(feeds.values())))
        return {
            spec.name: np.zeros(
                [batch if size is None else size for size in spec.shape], dtype=spec.dtype
            )
            for spec in self._outputs
        }

    def close(self) -> None:
        """Does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Does nothing."""
