"""What a bundle's network says of a sample where it is no classifier."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeres.backends.base import Array
from edgeres.errors import ArtefactError, ModelError, StageError, UsageError
from edgeres.graph.summary import TensorSpec
from edgeres.tasks import CUSTOM, open_tasks
from edgeres.tasks.outputs import OutputsTask
from edgeres.tasks.task import Task


@dataclass(frozen=True)
class Reading:
    """What the network gives for one sample.

    Attributes:
        text: What it means, on one line.
        outputs: Each output by name, ``(...) float32`` without the batch.
    """

    text: str
    outputs: Mapping[str, NDArray[np.float32]]


def reader(said: Sequence[Mapping[str, Any]], outputs: Sequence[TensorSpec]) -> Task:
    """The task that turns outputs into words, from what a bundle's manifest says.

    The user's own metric is code, which no bundle holds: its outputs are shown as they are.

    Args:
        said: What the manifest says.
        outputs: What the engine gives.

    Raises:
        ArtefactError: A task that this version does not know, or that is not one of these outputs.
    """
    if any(block["name"] == CUSTOM for block in said):
        return OutputsTask()
    try:
        task = open_tasks(said)
        task.reads(outputs)
    except (UsageError, ModelError) as error:
        raise ArtefactError(
            f"the bundle's task does not fit its engine: {error.message}",
            hint="Make the bundle again with `edgeres bundle`.",
        ) from error
    return task


def readings(
    task: Task, outputs: Mapping[str, Array], class_names: Sequence[str]
) -> Iterator[Reading]:
    """What each sample of a batch means.

    Raises:
        StageError: An output is NaN or Inf.
    """
    for name, values in outputs.items():
        bad = ~np.isfinite(values.reshape(len(values), -1)).all(axis=1)
        if bad.any():
            raise StageError(
                f"the engine gives NaN or Inf at {name!r} for sample {int(bad.argmax())}: that is "
                "no answer.",
                hint="Run `edgeres validate` on the engine to see whether it is broken.",
            )
    count = len(next(iter(outputs.values())))
    for index in range(count):
        one = {name: values[index : index + 1] for name, values in outputs.items()}
        yield Reading(
            task.text(one, class_names),
            {name: np.asarray(value[0], np.float32) for name, value in one.items()},
        )
