"""Runs an engine over a set of samples for any task, and keeps what the task judges."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeres.backends.base import Array, Runner
from edgeres.evaluation.batching import BatchWatch
from edgeres.evaluation.distinct import Sketcher, Sketches
from edgeres.evaluation.passes import answer, one_pass
from edgeres.tasks.answers import Answers
from edgeres.tasks.kept import OUTPUT, kept
from edgeres.tasks.task import Task

if TYPE_CHECKING:
    from edgeres.data.bad_images import BadImages
    from edgeres.data.preprocess import Preprocess
    from edgeres.data.types import Dataset
    from edgeres.system.progress import ProgressCallback


def answer_set(
    runner: Runner,
    dataset: Dataset,
    preprocess: Preprocess,
    task: Task,
    *,
    batch_size: int = 64,
    name: str = "",
    model_sha256: str = "",
    workers: int = 0,
    skipped: BadImages | None = None,
    batches_alike: bool = True,
    progress: ProgressCallback | None = None,
) -> Answers:
    """Answers of one engine on a whole data set.

    Args:
        runner: A loaded engine with one input.
        dataset: The samples, with targets where the task needs them.
        preprocess: How a sample becomes numbers.
        task: What the outputs mean.
        batch_size: Samples a run, as far as the engine takes so many or so few.
        name: What answers, for messages and reports.
        model_sha256: Hash of the engine or model file, kept with the answers.
        workers: Threads that decode images ahead.
        skipped: Collects images that cannot be decoded; without it the first raises.
        batches_alike: Whether to answer some of the samples again in other batches.
        progress: Called with samples done and samples in all.

    Raises:
        DataError: The data set is empty, a sample is bad, or its targets do not fit the task.
        ModelError: The outputs are not what the task judges, or depend on the batch.
    """
    from edgeres.data.features import spread_of
    from edgeres.data.targets import targets_of

    reads = task.reads(runner.outputs)
    task = task.for_outputs(reads)
    parts: dict[str, list[NDArray[Any]]] = {}
    sketches: list[Sketches] = []
    sketch: Sketcher | None = None
    watch = BatchWatch(len(dataset))
    watched: _Watched | None = None
    for inputs, outputs, places in one_pass(
        runner,
        dataset,
        preprocess,
        batch_size=batch_size,
        workers=workers,
        skipped=skipped,
        progress=progress,
    ):
        read = {output: outputs[output] for output in reads}
        rows = dict(task.rows(read, targets_of(dataset, places, preprocess)))
        rows |= {f"{OUTPUT}{output}": kept(values) for output, values in read.items()}
        for row, values in rows.items():
            parts.setdefault(row, []).append(values)
        sketch = sketch or Sketcher(preprocess, inputs.shape[1:], spread_of(dataset))
        sketches.append(sketch(inputs))
        if batches_alike:
            watched = watched or _Watched(read)
            watch.saw(inputs, watched(read))
    if watched is not None:
        rows_of = watched

        def again(inputs: Array) -> NDArray[np.float32]:
            outputs = answer(runner, inputs)
            return rows_of({output: outputs[output] for output in reads})

        watch.check(again, runner.batch_limits, name or "the engine")
    return Answers(
        {row: np.concatenate(values) for row, values in parts.items()},
        name=name,
        model_sha256=model_sha256,
        data_fingerprint=dataset.fingerprint,
        class_names=tuple(dataset.class_names),
        sketches=np.concatenate(sketches),
    )


class _Watched:
    """All outputs of a sample in one row, each output with the same weight whatever its size.

    Args:
        first: Outputs of the first batch, whose energy is the measure.
    """

    def __init__(self, first: dict[str, Array]) -> None:
        self._weights = {
            name: 1.0 / max(float(np.sqrt(np.square(_finite(kept(v))).sum(axis=1).mean())), 1e-30)
            for name, v in first.items()
        }

    def __call__(self, outputs: dict[str, Array]) -> NDArray[np.float32]:
        """``(N, D) float32``."""
        rows = [kept(values) * np.float32(self._weights[name]) for name, values in outputs.items()]
        return np.concatenate(rows, axis=1)


def _finite(values: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.nan_to_num(values.astype(np.float64), posinf=0.0, neginf=0.0)
