"""What the outputs of a network mean: the one thing that a task has to say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeres.data.targets import Targets
from edgeres.graph.summary import TensorSpec
from edgeres.tasks.metric import Metric, Rows

Outputs = Mapping[str, NDArray[Any]]
"""What a network gives for a batch, by the output's name; the first dimension is the batch."""


class Task(Protocol):
    """A task. One file in ``edgeres/tasks/`` exposes ``make_task``, which makes it from settings.

    Attributes:
        name: Its name, that of its file.
        needs_targets: Whether it can say nothing of samples that nobody has labelled.
        metrics: What it measures.
    """

    @property
    def name(self) -> str: ...  # noqa: D102 - see the class
    @property
    def needs_targets(self) -> bool: ...  # noqa: D102
    @property
    def metrics(self) -> tuple[Metric, ...]: ...  # noqa: D102

    @property
    def gated(self) -> tuple[str, ...]:
        """Names of the metrics that are gated unless a recipe names another: the first."""
        return (self.metrics[0].name,)

    def for_outputs(self, names: Sequence[str]) -> Task:
        """The task for a network with these outputs, where its metrics depend on them."""
        return self

    def reads(self, outputs: Sequence[TensorSpec]) -> tuple[str, ...]:
        """Names of the outputs that it reads of those that there are.

        Raises:
            ModelError: They are not what this task judges, with what to do.
        """
        ...

    def rows(self, outputs: Outputs, targets: Targets) -> Rows:
        """What is kept of a batch to judge it later: as little as its metrics need.

        Args:
            outputs: The outputs that it reads, ``(N, ...)``.
            targets: What is right for these samples; empty where nobody has said it.

        Raises:
            DataError: Targets of another shape, type or range than the outputs call for.
        """
        ...

    def distributions(self, rows: Rows) -> Mapping[str, Mapping[str, NDArray[np.float64]]]:
        """Numbers whose spread tells something: by what they are, and by kind, ``(N,)`` each."""
        return {}

    def class_map(self, outputs: Outputs) -> NDArray[np.int64] | None:
        """Class of each pixel of one sample, ``(h, w)``; ``None`` where outputs are no maps."""
        return None

    def text(self, outputs: Outputs, class_names: Sequence[str]) -> str:
        """What ``edgeres run`` prints for one sample, on one line; outputs are ``(1, ...)``."""
        ...
