"""Samples one after the other through an engine: answers in order, a bad one in its own place.

Samples are decoded while the engine runs. A sample that cannot be read, or comes to another size
than the engine takes, is an error in the place of its answer; those after it are answered.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from itertools import islice
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgeres.bundling.inputs import ImageInput, Inputs
from edgeres.bundling.runner_pool import closed
from edgeres.data.bad_images import BadImages
from edgeres.data.batches import numbered_batches
from edgeres.data.preprocess import Preprocess
from edgeres.errors import DataError
from edgeres.system.container_limits import usable_threads

T = TypeVar("T")
Batch = NDArray[np.float32]


@dataclass
class _Left(BadImages):
    """Every sample that was left out, with its error."""

    errors: dict[str, DataError] = field(default_factory=dict)

    def add(self, name: str, error: DataError, total: int) -> None:
        """Notes one; any number of them may be bad."""
        self.errors[name] = error


@dataclass(frozen=True)
class _Job(Generic[T]):
    """Samples ``begin`` to before ``end``, of which ``rows`` are with the engine."""

    inputs: Inputs
    left: _Left
    begin: int
    end: int
    rows: Sequence[int] = ()
    answers: Future[list[T]] | None = None

    def results(self) -> Iterator[T | DataError]:
        """An answer or an error for each."""
        found: Sequence[T | DataError] = ()
        if self.answers is not None:
            try:
                found = self.answers.result()
            except DataError as error:  # these samples are of a size that the engine does not take
                found = [error] * len(self.rows)
            except CancelledError as error:  # by `close`
                raise closed() from error
        by_row = dict(zip(self.rows, found, strict=True))
        for row in range(self.begin, self.end):
            yield by_row[row] if row in by_row else self.left.errors[self.inputs.image_name(row)]


def each_sample(
    images: Iterable[ImageInput],
    submit: Callable[[Batch], Future[list[T]]],
    preprocess: Preprocess,
    *,
    batch_size: int,
    ahead: int,
    in_bytes: bool = False,
) -> Iterator[T | DataError]:
    """Answers to samples, in order, as they get ready.

    Args:
        images: Samples; an iterator is read as far ahead as batches are decoded.
        submit: Takes a batch of preprocessed samples to the engine.
        preprocess: How a sample becomes numbers.
        batch_size: Samples that the engine runs at once.
        ahead: Batches that wait for the engine while others are decoded.
        in_bytes: Whether pixels that stay what they are go to ``submit`` as ``uint8``.

    Yields:
        For each sample what ``submit`` gives for it, or why it cannot be answered.

    Raises:
        EdgeResError: The engine failed.
    """
    waiting: deque[_Job[T]] = deque()
    try:
        for job in _jobs(images, submit, preprocess, batch_size, in_bytes=in_bytes):
            waiting.append(job)
            if len(waiting) > ahead:
                yield from waiting.popleft().results()
        while waiting:
            yield from waiting.popleft().results()
    finally:
        for job in waiting:
            if job.answers is not None:
                job.answers.cancel()


def _jobs(
    images: Iterable[ImageInput],
    submit: Callable[[Batch], Future[list[T]]],
    preprocess: Preprocess,
    batch_size: int,
    *,
    in_bytes: bool,
) -> Iterator[_Job[T]]:
    first = 0
    size = max(1, len(images)) if isinstance(images, Sequence) else batch_size
    rest = iter(images)
    while chunk := tuple(islice(rest, size)):
        inputs = Inputs(chunk, features=preprocess.features, first=first)
        first += len(chunk)
        yield from _of_chunk(inputs, submit, preprocess, batch_size, in_bytes=in_bytes)


def _of_chunk(
    inputs: Inputs,
    submit: Callable[[Batch], Future[list[T]]],
    preprocess: Preprocess,
    batch_size: int,
    *,
    in_bytes: bool,
) -> Iterator[_Job[T]]:
    left, done = _Left(), 0
    try:
        for batch, places in numbered_batches(
            inputs,
            preprocess,
            batch_size,
            workers=usable_threads(),
            skipped=left,
            in_bytes=in_bytes,
        ):
            rows = places.tolist()
            yield _Job(inputs, left, done, rows[-1] + 1, rows, submit(batch))
            done = rows[-1] + 1
    except DataError as error:  # all are bad, or one has another size than those before it
        if len(inputs) - done > 1:
            for row in range(done, len(inputs)):
                yield from _of_chunk(
                    inputs.subset([row]), submit, preprocess, batch_size, in_bytes=in_bytes
                )
            return
        for row in range(done, len(inputs)):
            left.errors.setdefault(inputs.image_name(row), error)
    if done < len(inputs):
        yield _Job(inputs, left, done, len(inputs))
