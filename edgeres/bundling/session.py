"""The runtime: a bundle opened, checked and ready to classify, without torch.

with edgeres.Session("bundle.edgeres") as session:
    print(session.classify("cat.jpg")[0].label)
    for answers in session.classify(["cat.jpg", "dog.png"], top=3):
        print(answers[0].label, answers[0].confidence)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from edgeres.backends.base import Array
from edgeres.backends.classifier import class_scores, single_input, single_output
from edgeres.bundling.each import each_sample
from edgeres.bundling.inputs import ImageInput, as_several
from edgeres.bundling.manifest import Manifest
from edgeres.bundling.open import OpenBundle
from edgeres.bundling.prepare import Wanted, prepare
from edgeres.bundling.reading import Reading, reader, readings
from edgeres.bundling.runner_pool import RunnerPool, closed
from edgeres.bundling.scores import check_preprocessed, check_scores
from edgeres.bundling.selftest import SelfTest
from edgeres.data.preprocess import Preprocess
from edgeres.errors import DataError, UsageError
from edgeres.evaluation.passes import answer
from edgeres.graph.summary import TensorSpec
from edgeres.system.closing import Closing
from edgeres.system.container_limits import usable_threads

T = TypeVar("T")


@dataclass(frozen=True)
class Answer:
    """One class that an image may show; ``confidence`` in [0, 1] is its softmax probability."""

    index: int
    label: str
    confidence: float


class Session(Closing):
    """An engine of a bundle, loaded and self-tested; every method may be called from any thread.

    Args:
        bundle: The bundle file.
        target: Which engine; by default the first that this machine can run.
        device: ``cpu``, ``cuda:N``, ``gpu:N`` or ``npu``; by default the one that the engine was
            built for.
        threads: CPU threads of each runner; by default the runtime's choice, or of several runners
            an equal share of the CPUs each.
        pool: Runners, for as many calls at once; each takes the engine's memory once.
        batch_size: Images that :meth:`classify` runs at once, as far as the engine takes so many.
        key: PEM file with the public key that must have signed the bundle.
        rebuild: Build the engine anew from its Q/DQ file where it does not fit this device.
        isolate: First run the engine in a child process, which may crash, hang or take all memory.
        self_test: Compare the answers to the bundle's samples with the recorded ones.

    Raises:
        ArtefactError: Not a whole bundle, or one for another version.
        BackendMissingError: This machine is not what the bundle was made for.
        GateError: The self-test failed.
        StageError: The engine crashed or hung in its trial.
        UsageError: An argument that makes no sense.
    """

    def __init__(
        self,
        bundle: str | os.PathLike[str],
        *,
        target: str | None = None,
        device: str | None = None,
        threads: int | None = None,
        pool: int = 1,
        batch_size: int = 8,
        key: str | os.PathLike[str] | None = None,
        rebuild: bool = False,
        isolate: bool = False,
        self_test: bool = True,
    ) -> None:
        if batch_size < 1:
            raise UsageError(f"expected a batch size of at least 1, got {batch_size}.")
        if threads is None and pool > 1:
            threads = max(1, usable_threads() // pool)
        wanted = Wanted(target, device, threads, pool, rebuild, isolate, self_test)
        with OpenBundle(Path(bundle), key=None if key is None else Path(key)) as opened:
            prepared = prepare(opened, wanted)
            self._manifest = opened.manifest
            self._preprocess = opened.preprocess
        self._target = prepared.target
        self._self_test = prepared.self_test
        self._rebuilt = prepared.rebuilt
        first, self._at_once = prepared.runners[0], len(prepared.runners)
        self._input = single_input(first)
        said = self._manifest.task
        self._task = reader(said, first.outputs) if said else None
        self._output = single_output(first) if self._task is None else None
        self._batch_size = first.batch_limits.fit(batch_size)
        self._runners = prepared.runners
        self._engines = RunnerPool(prepared.runners)
        self._pool = ThreadPoolExecutor(self._at_once, thread_name_prefix="edgeres-run")

    @property
    def manifest(self) -> Manifest:
        """What the bundle says of itself."""
        return self._manifest

    @property
    def is_classifier(self) -> bool:
        """Whether :meth:`classify` says what the outputs mean; else :meth:`read` does."""
        return self._task is None

    @property
    def target(self) -> str:
        """Which engine of the bundle runs."""
        return self._target

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the scores."""
        return self._manifest.class_names

    @property
    def preprocess(self) -> Preprocess:
        """How an image becomes numbers."""
        return self._preprocess

    @property
    def input(self) -> TensorSpec:
        """What :meth:`infer` takes; a free size is ``None``."""
        return self._input

    @property
    def self_test(self) -> SelfTest | None:
        """Outcome of the self-test; ``None`` where it was not asked for."""
        return self._self_test

    @property
    def rebuilt(self) -> bool:
        """Whether the engine was built anew for this device."""
        return self._rebuilt

    def infer(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Runs preprocessed images through the engine.

        Args:
            images: ``(N, C, H, W) float32``, or ``(N, H, W, C)`` with layout ``nhwc``, as
                :attr:`preprocess` gives them; any N, which is split and filled up to what the
                engine takes.

        Returns:
            Scores ``(N, K) float32``: logits, or probabilities for a network that ends in Softmax.

        Raises:
            DataError: The images do not fit the engine, have NaN or Inf, or are not normalized.
            StageError: The engine failed, or its scores are NaN or Inf.
            UsageError: The session is closed, or was while this waited, or this process was forked
                from the one that opened it.
        """
        if self._output is None:
            raise UsageError(
                f"{self._manifest.name} is no classifier.",
                hint="outputs() runs it on preprocessed arrays, read() on files and images.",
            )
        scores = class_scores(self.outputs(images), self._output, len(images))
        check_scores(scores)
        return scores

    def outputs(self, images: NDArray[np.float32]) -> dict[str, Array]:
        """Runs preprocessed samples through the engine, whatever its task is.

        Args:
            images: As for :meth:`infer`.

        Returns:
            Every output of the network by name, ``(N, ...)``, as it comes.

        Raises:
            DataError: The samples do not fit the engine, have NaN or Inf, or are not normalized.
            StageError: The engine failed.
            UsageError: As :meth:`infer`.
        """
        self._engines.check()
        check_preprocessed(self._input, self._preprocess, images)
        with self._engines.runner() as runner:
            return answer(runner, images)

    @overload
    def read(self, images: ImageInput) -> Reading: ...  # type: ignore[overload-overlap]
    @overload
    def read(self, images: Iterable[ImageInput]) -> list[Reading]: ...
    def read(self, images: ImageInput | Iterable[ImageInput]) -> Reading | list[Reading]:
        """Decodes and preprocesses samples, runs them, and says what the outputs mean.

        Args:
            images: As for :meth:`classify`; ``.npy`` files and arrays of floats where the network
                takes features.

        Raises:
            DataError: A sample cannot be read, or comes to another size than the engine's.
            StageError: The engine failed, or an output is NaN or Inf.
            UsageError: The session is closed, or the network is a classifier.
        """
        if self._task is None:
            raise UsageError(
                f"{self._manifest.name} is a classifier.", hint="classify() names the classes."
            )
        several, one = as_several(images, self._input, self._preprocess)
        found = [_or_raise(each) for each in self._each(several, self._readings)]
        return found[0] if one else found

    @overload  # a text is also a number of texts; it is taken for one path
    def classify(  # type: ignore[overload-overlap]
        self, images: ImageInput, *, top: int = 5
    ) -> tuple[Answer, ...]: ...
    @overload
    def classify(
        self, images: Iterable[ImageInput], *, top: int = 5
    ) -> list[tuple[Answer, ...]]: ...
    def classify(
        self, images: ImageInput | Iterable[ImageInput], *, top: int = 5
    ) -> tuple[Answer, ...] | list[tuple[Answer, ...]]:
        """Decodes, preprocesses and classifies images; decoding goes on while the engine runs.

        Args:
            images: One image, or any number of them: paths, the bytes of image files, Pillow
                images, or arrays ``(H, W)`` or ``(H, W, 3)`` uint8 in RGB order. EXIF orientation
                is applied to all but arrays, which have none.
            top: Classes for each image.

        Returns:
            For each image its classes, the likeliest first; of one image alone only these.

        Raises:
            DataError: An image cannot be read, or comes to another size than the engine's.
            StageError: The engine failed.
            UsageError: The session is closed, or ``top`` is under 1.
        """
        several, one = as_several(images, self._input, self._preprocess)
        found = list(self.stream(several, top=top))
        return found[0] if one else found

    def stream(self, images: Iterable[ImageInput], *, top: int = 5) -> Iterator[tuple[Answer, ...]]:
        """As :meth:`classify`, one image after the other as they get ready.

        An iterator is read a few batches ahead. The first image that cannot be answered ends it;
        :meth:`outcomes` goes on.
        """
        return (_or_raise(each) for each in self._classes(images, top))

    def outcomes(
        self, images: Iterable[ImageInput], *, top: int = 5, ahead: int | None = None
    ) -> Iterator[tuple[Answer, ...] | Reading | DataError]:
        """Answers as they get ready, with an error in the place of each that cannot be given.

        Args:
            images: Any number of samples; an iterator is read a few batches ahead.
            top: Classes for each image, of a classifier.
            ahead: Batches that are read while others run; with 0 all samples of a batch are
                answered before the next is asked for. As many as runners where left out.

        Yields:
            For each sample what :meth:`classify` or :meth:`read` gives, or why there is no answer.

        Raises:
            StageError: The engine failed.
            UsageError: As :meth:`classify`.
        """
        if self._task is None:
            return self._classes(images, top, ahead)
        return self._each(images, self._readings, ahead)

    def _classes(
        self, images: Iterable[ImageInput], top: int, ahead: int | None = None
    ) -> Iterator[tuple[Answer, ...] | DataError]:
        if top < 1:
            raise UsageError(f"expected at least one class for each image, got {top}.")
        return self._each(images, lambda batch: list(self._answers(self.infer(batch), top)), ahead)

    def _each(
        self,
        images: Iterable[ImageInput],
        run: Callable[[NDArray[np.float32]], list[T]],
        ahead: int | None = None,
    ) -> Iterator[T | DataError]:
        self._engines.check()
        return each_sample(
            images,
            lambda batch: self._submit(run, batch),
            self._preprocess,
            batch_size=self._batch_size,
            ahead=self._at_once if ahead is None else ahead,
            in_bytes=self._input.dtype == "uint8",
        )

    def _readings(self, batch: NDArray[np.float32]) -> list[Reading]:
        assert self._task is not None
        return list(readings(self._task, self.outputs(batch), self.class_names))

    async def infer_async(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """As :meth:`infer`, in a thread of the pool."""
        import asyncio

        future = self._submit(self.infer, images)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            self._engines.check()  # it was `close` that cancelled it, or else who waits
            raise

    async def classify_async(
        self, images: Iterable[ImageInput], *, top: int = 5
    ) -> list[tuple[Answer, ...]]:
        """As :meth:`classify` of several images, in a thread of the event loop."""
        import asyncio

        return await asyncio.to_thread(lambda: self.classify(images, top=top))

    def close(self) -> None:
        """Waits for calls that run and frees the engine; a second call does nothing."""
        if self._engines.close():
            self._pool.shutdown(cancel_futures=True)

    def __reduce__(self) -> NoReturn:
        raise UsageError(
            "a session cannot be pickled or copied: it holds an engine.",
            hint="Send the path of the bundle, and open it there.",
        )

    def _submit(
        self, run: Callable[[NDArray[np.float32]], T], images: NDArray[np.float32]
    ) -> Future[T]:
        self._engines.check()
        try:
            return self._pool.submit(run, images)
        except RuntimeError as error:  # closed just now
            raise closed() from error

    def _answers(self, scores: NDArray[np.float32], top: int) -> Iterable[tuple[Answer, ...]]:
        names = self.class_names
        shares = scores.astype(float)
        if self._manifest.outputs == "logits":
            shares = np.exp(shares - shares.max(axis=1, keepdims=True))
            shares /= shares.sum(axis=1, keepdims=True)
        for row in shares:
            best = np.argsort(-row, kind="stable")[:top]
            yield tuple(Answer(int(i), names[i], float(row[i])) for i in best)


def _or_raise(found: T | DataError) -> T:
    if isinstance(found, DataError):
        raise found
    return found
