"""One pass of an engine over a data set: each sample once and in order."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgeres.backends.base import Array, Runner
from edgeres.backends.classifier import check_images, fed_batches, single_input
from edgeres.errors import DataError, ModelError
from edgeres.system.progress import ProgressCallback

if TYPE_CHECKING:
    from edgeres.data.bad_images import BadImages
    from edgeres.data.preprocess import Preprocess
    from edgeres.data.types import Dataset


#: Numbers of all samples of a run, about: 16 of 3 x 224 x 224.
_NUMBERS = 16 * 3 * 224 * 224


def in_memory(batch_size: int, shape: Sequence[int | None]) -> int:
    """At most so many samples of an input ``(N, ...)``; all where a side is open."""
    sides = [side for side in shape[1:] if side is not None]
    fit = _NUMBERS // math.prod(sides) if len(sides) == len(shape) - 1 else batch_size
    return max(1, min(batch_size, fit))


def one_pass(
    runner: Runner,
    dataset: Dataset,
    preprocess: Preprocess,
    *,
    batch_size: int,
    workers: int = 0,
    skipped: BadImages | None = None,
    progress: ProgressCallback | None = None,
) -> Iterator[tuple[NDArray[np.float32], dict[str, Array], NDArray[np.int64]]]:
    """Runs the samples in batches that the engine takes.

    Args:
        runner: A loaded engine with one input.
        dataset: The samples.
        preprocess: How a sample becomes numbers.
        batch_size: Samples a run, as far as the engine takes so many or so few; fewer of large
            ones, whose activations take the more memory and gain nothing from company.
        workers: Threads that decode images ahead.
        skipped: Collects images that cannot be decoded, which are then left out; without it the
            first raises.
        progress: Called with samples done and samples in all.

    Yields:
        Inputs ``(N, ...)``, all outputs ``(N, ...)`` by name, and places in the set ``(N,)``.

    Raises:
        DataError: The data set is empty, changes meanwhile, or a sample is bad or does not fit.
    """
    from edgeres.data.batches import numbered_batches

    if len(dataset) == 0:
        raise DataError(f"{dataset.name}: the data set is empty.", hint="Give labelled images.")
    source = single_input(runner)
    done = 0
    for inputs, rows in numbered_batches(
        dataset,
        preprocess,
        runner.batch_limits.fit(in_memory(batch_size, source.shape)),
        workers=workers,
        skipped=skipped,
        in_bytes=source.dtype == "uint8",
    ):
        check_images(source, inputs)
        yield inputs, answer(runner, inputs), rows
        done += len(inputs)
        if progress is not None:
            progress(done, len(dataset))
    if not done:
        raise DataError(f"{dataset.name}: no sample can be decoded.", hint="Repair the data set.")
    left_out = len(skipped.reasons) if skipped is not None else 0
    if not len(dataset) - left_out <= done <= len(dataset):
        raise DataError(
            f"{dataset.name}: expected {len(dataset)} images, {done} were read.",
            hint="The data set changed while it was read; run again.",
        )


def answer(runner: Runner, inputs: Array) -> dict[str, Array]:
    """All outputs for any number of samples, in batches that the engine takes.

    Raises:
        ModelError: An output that has no row for each sample.
    """
    name = single_input(runner).name
    parts = []
    for fed, count in fed_batches(runner, inputs):
        found = runner.infer({name: fed})
        for output, values in found.items():
            if values.shape[:1] != (len(fed),):
                raise ModelError(
                    f"expected the output {output} to be ({len(fed)}, ...), got {values.shape}.",
                    hint="The model must give one row for each sample of the batch.",
                )
        parts.append({output: values[:count] for output, values in found.items()})
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
