"""``outputs``: how near an engine's outputs are to the float network's. It needs no labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeres.data.targets import Targets
from edgeres.errors import ModelError, UsageError
from edgeres.graph.summary import TensorSpec
from edgeres.tasks.kept import OUTPUT
from edgeres.tasks.metric import Metric, Rows
from edgeres.tasks.task import Outputs, Task

LEAST_DB = 20.0
"""SQNR that an output must have where nobody says otherwise: an error of a tenth of its size."""
_SHOWN = 6


@dataclass(frozen=True)
class OutputsTask(Task):
    """Compares each output with that of the float network, sample by sample.

    Attributes:
        names: Outputs that are compared; empty until the network is known.
    """

    names: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Name of the task."""
        return "outputs"

    @property
    def needs_targets(self) -> bool:
        """The float network says what is right."""
        return False

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """SQNR of each output, named after it where there are several."""
        several = len(self.names) > 1
        return tuple(
            Metric(
                name=f"{name}.sqnr_db" if several else "sqnr_db",
                title=f"SQNR of {name!r}" if several else "SQNR",
                unit="dB",
                higher_is_better=True,
                max_drop=LEAST_DB,
                closeness=partial(_energies, f"{OUTPUT}{name}"),
            )
            for name in self.names
        )

    @property
    def gated(self) -> tuple[str, ...]:
        """All: an engine is as good as its worst output."""
        return tuple(metric.name for metric in self.metrics)

    def for_outputs(self, names: Sequence[str]) -> OutputsTask:
        """The task for these outputs."""
        return OutputsTask(tuple(names))

    def reads(self, outputs: Sequence[TensorSpec]) -> tuple[str, ...]:
        """All outputs."""
        if not outputs:
            raise ModelError("the network has no output.", hint="Export it again.")
        return tuple(spec.name for spec in outputs)

    def rows(self, outputs: Outputs, targets: Targets) -> Rows:
        """Nothing but the outputs, which are kept for every task."""
        return {}

    def text(self, outputs: Outputs, class_names: Sequence[str]) -> str:
        """Shape and first numbers of each output."""
        parts = []
        for name, value in outputs.items():
            numbers = value.reshape(-1)
            shown = " ".join(f"{number:.6g}" for number in numbers[:_SHOWN])
            more = " ..." if len(numbers) > _SHOWN else ""
            parts.append(f"{name} {list(value.shape[1:])} {shown}{more}")
        return "; ".join(parts)


def make_task(settings: dict[str, Any]) -> OutputsTask:
    """Makes the task; it has no settings.

    Raises:
        UsageError: There are some.
    """
    if settings:
        raise UsageError(
            f"`task`: outputs has no key `{next(iter(settings))}`.",
            hint="`gates: {floor: ...}` says how near in dB the outputs must be.",
        )
    return OutputsTask()


def _energies(
    row: str, reference: Rows, candidate: Rows
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Energy of the reference and of the difference, of each sample."""
    whole = reference[row].astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        apart = candidate[row].astype(np.float64) - whole
        return np.square(whole).sum(axis=1), np.square(apart).sum(axis=1)
