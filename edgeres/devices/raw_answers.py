"""Outputs as they are, fetched from a device, and what the task at home makes of them.

The targets and the user's own code stay where the verdict is made: a device only runs the engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeres.data.targets import Targets, targets_of
from edgeres.graph.summary import TensorSpec
from edgeres.tasks.answers import Answers
from edgeres.tasks.kept import OUTPUT, kept
from edgeres.tasks.metric import Metric, Rows
from edgeres.tasks.task import Outputs, Task

if TYPE_CHECKING:
    from edgeres.data.preprocess import Preprocess
    from edgeres.data.types import Dataset

_RAW = "raw:"
_PLACE = "place"
_AT_ONCE = 256


@dataclass(frozen=True)
class RawTask(Task):
    """Keeps every output whole, and the number that stands for the sample's label."""

    @property
    def name(self) -> str:
        """Name of the task."""
        return "raw"

    @property
    def needs_targets(self) -> bool:
        """They stay at home."""
        return False

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Nothing is judged on the device."""
        return ()

    def reads(self, outputs: Sequence[TensorSpec]) -> tuple[str, ...]:
        """All outputs."""
        return tuple(spec.name for spec in outputs)

    def rows(self, outputs: Outputs, targets: Targets) -> Rows:
        """The outputs as they are, float32, and the places of the samples in their set."""
        raw = {f"{_RAW}{name}": np.asarray(v, np.float32) for name, v in outputs.items()}
        return {**raw, _PLACE: targets[""]}

    def text(self, outputs: Outputs, class_names: Sequence[str]) -> str:
        """Nothing is read on the device."""
        return ""


def judged_at_home(found: Answers, task: Task, dataset: Dataset, preprocess: Preprocess) -> Answers:
    """What a task keeps of outputs that came back from a device.

    Args:
        found: Answers of :class:`RawTask`.
        task: What the outputs mean.
        dataset: The samples, whose places the device was told as their labels.
        preprocess: How they became numbers.

    Raises:
        DataError: Targets that do not fit the outputs.
        ModelError: The outputs are not what the task judges.
    """
    raw = {n.removeprefix(_RAW): row for n, row in found.rows.items() if n.startswith(_RAW)}
    specs = [TensorSpec(name, (None, *v.shape[1:]), "float32") for name, v in raw.items()]
    reads = task.reads(specs)
    task = task.for_outputs(reads)
    places = found.rows[_PLACE].astype(np.int64)
    parts: dict[str, list[NDArray[Any]]] = {}
    for start in range(0, found.samples, _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        read = {name: raw[name][part] for name in reads}
        rows = dict(task.rows(read, targets_of(dataset, places[part], preprocess)))
        rows |= {f"{OUTPUT}{name}": kept(values) for name, values in read.items()}
        for name, values in rows.items():
            parts.setdefault(name, []).append(values)
    return replace(found, rows={name: np.concatenate(values) for name, values in parts.items()})
