"""An engine over a large set by many workers (dask.distributed), each sample counted once.

The set is cut into shards of whole batches, so that every worker makes the batches that one process
would make and the answers are the same to the last bit. A shard whose worker dies is done again by
another one; dask keeps one result for each shard, and the whole is checked for gaps and doubles
before it counts. Workers read the engine and the images by their paths, which must be theirs too.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from edgeres.backends.base import BuildConfig, Engine, Runner
from edgeres.backends.fit import executable_backend
from edgeres.backends.sidecar import read_engine
from edgeres.data.bad_images import BadImages
from edgeres.data.class_order import in_order_of
from edgeres.data.preprocess import Preprocess
from edgeres.data.source import open_dataset
from edgeres.data.types import Dataset
from edgeres.devices.dask_wait import ask, results_as_they_end
from edgeres.devices.worker_code import CODE_SHA256
from edgeres.errors import (
    ArtefactError,
    BackendMissingError,
    DataError,
    EdgeResError,
    StageError,
    UsageError,
)
from edgeres.evaluation.answer_set import answer_set
from edgeres.evaluation.joined import joined
from edgeres.evaluation.predict import BATCH, predict
from edgeres.evaluation.predictions import Predictions
from edgeres.evaluation.run_task import task_of
from edgeres.system.extras import import_extra
from edgeres.system.files import file_sha256
from edgeres.system.progress import ProgressCallback
from edgeres.system.within import within
from edgeres.tasks.answers import Answers

SHARD = 5 * BATCH
_CONNECT_S = 20


@dataclass(frozen=True)
class Job:
    """What every worker must find: engine and samples, proven by their hashes.

    Attributes:
        engine: Path of the engine.
        engine_sha256: Hash of that file.
        data: Samples, as after ``--data``.
        data_fingerprint: Of that set.
        preprocess: How a sample becomes numbers.
        threads: CPU threads of each engine.
        task: What the outputs mean, as JSON of what a recipe says; ``[]`` for a classifier.
        class_names: Of the network's classes, in whose order the labels are; empty where unknown.
        code_sha256: Of the edgeres that asks (:mod:`edgeres.devices.worker_code`).
    """

    engine: str
    engine_sha256: str
    data: str
    data_fingerprint: str
    preprocess: Preprocess
    threads: int | None
    task: str = "[]"
    class_names: tuple[str, ...] = ()
    code_sha256: str = CODE_SHA256


@dataclass(frozen=True)
class Shard:
    """Answers to the samples from ``start`` to before ``stop``, bad images left out and named.

    ``answers`` is ``None`` where no image could be decoded; ``code_sha256`` is that of the worker's
    edgeres.
    """

    start: int
    stop: int
    answers: Predictions | Answers | None
    left_out: Mapping[str, str]
    worker: int
    code_sha256: str

    @property
    def answered(self) -> int:
        """Samples that were answered."""
        return 0 if self.answers is None else self.answers.samples


def predict_sharded(
    path: Path,
    data: str,
    preprocess: Preprocess,
    *,
    task: Sequence[dict[str, Any]] = (),
    class_names: tuple[str, ...] = (),
    scheduler: str | None = None,
    workers: int = 2,
    threads: int | None = 1,
    shard: int = SHARD,
    skipped: BadImages | None = None,
    progress: ProgressCallback | None = None,
) -> Predictions | Answers:
    """Answers of an engine on a whole data set, by many workers.

    Args:
        path: The engine file, with its sidecar beside it.
        data: Samples, as after ``--data``.
        preprocess: How a sample becomes numbers.
        task: What the outputs mean, as a recipe says it; empty for a classifier. Files of code are
            read by their paths.
        class_names: Of the network's classes, in whose order the labels are; empty where unknown.
        scheduler: Address of a running dask scheduler; ``None`` starts workers on this machine.
        workers: How many of those.
        threads: CPU threads of each worker's engine.
        shard: Samples in a shard, a multiple of the batch.
        skipped: Collects images that cannot be decoded; without it the first of them raises.
        progress: Called with samples done and samples in all.

    Raises:
        ArtefactError: A worker finds another engine, or none.
        BackendMissingError: dask is not installed, or the scheduler does not answer.
        DataError: A worker finds other samples, or too many are bad.
        StageError: Workers died again and again, one runs another edgeres or none, or shards are
            missing.
        UsageError: Numbers that make no sense.
    """
    if workers < 1 or shard < 1 or shard % BATCH:
        raise UsageError(
            f"expected workers of at least 1 and shards of a multiple of {BATCH}, got {workers} "
            f"and {shard}.",
            hint="Leave the shard size out.",
        )
    dataset = _opened(data, task, class_names)
    engine = read_engine(path)
    job = Job(
        engine=str(path.resolve()),
        engine_sha256=file_sha256(path),
        data=data,
        data_fingerprint=dataset.fingerprint,
        preprocess=preprocess,
        threads=threads,
        task=json.dumps(list(task)),
        class_names=class_names,
    )
    starts = range(0, len(dataset), shard)
    found: list[Shard] = []
    with _client(scheduler, workers) as client:
        dask = import_extra("distributed", extra="cluster")
        _check_workers(client)
        futures = [
            client.submit(
                answer_shard, job, start, min(start + shard, len(dataset)), skipped is not None,
                pure=False,
            )
            for start in starts
        ]  # fmt: skip
        done = 0
        try:
            for part in results_as_they_end(client, futures):
                found.append(part)
                done += part.stop - part.start
                if progress is not None:
                    progress(done, len(dataset))
        except EdgeResError:
            raise
        except dask.KilledWorker as error:
            raise StageError(
                f"workers died again and again on the same images ({error}).",
                hint="Look at their memory; use fewer workers.",
            ) from error
        except (OSError, ImportError, RuntimeError, TypeError, AttributeError) as error:
            told = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise StageError(f"a worker failed: {told}.", hint="See the worker's log.") from error
        finally:
            if client.status == "running":
                ask(lambda: client.cancel(futures), "to drop what is left")
    return assemble(found, dataset, engine, skipped)


def assemble(
    parts: Sequence[Shard], dataset: Dataset, engine: Engine, skipped: BadImages | None
) -> Predictions | Answers:
    """Puts shards together in the data set's order.

    Raises:
        DataError: Too many images were bad.
        StageError: A sample is missing, or is there twice, or is of a worker with another edgeres.
    """
    ordered = sorted(parts, key=lambda part: part.start)
    end = 0
    for part in ordered:
        check_code(part.code_sha256, f"the worker {part.worker}")
        if part.start != end:
            kind = "missing" if part.start > end else "there twice"
            raise StageError(
                f"samples from {min(part.start, end)} on are {kind}.", hint="Run again."
            )
        if part.answered + len(part.left_out) != part.stop - part.start:
            raise StageError(
                f"the shard at {part.start} answered {part.answered} of "
                f"{part.stop - part.start} samples.",
                hint="The data set changed while it was read; run again.",
            )
        end = part.stop
    if end != len(dataset):
        raise StageError(f"samples from {end} on are missing.", hint="Run again.")
    for part in ordered:
        for name, reason in part.left_out.items():
            if skipped is not None:
                skipped.add(name, DataError(reason), len(dataset))
    return joined(
        [part.answers for part in ordered if part.answers is not None],
        name=str(engine.path),
        model_sha256=engine.source_sha256,
        data_fingerprint=dataset.fingerprint,
    )


def check_code(theirs: str, who: str) -> None:
    """Compares the code that answered with the one that asks.

    Raises:
        StageError: They differ.
    """
    if theirs != CODE_SHA256:
        raise StageError(
            f"{who} runs another edgeres ({theirs[:12]} against {CODE_SHA256[:12]} here).",
            hint="Install the same edgeres for every worker and start the workers again.",
        )


def code_here() -> str:
    """What :func:`check_code` compares: what a worker is asked first."""
    return CODE_SHA256


def _check_workers(client: Any) -> None:
    """Asks every worker for its code before any image is answered.

    Raises:
        StageError: One has another edgeres, or none.
    """
    found = ask(lambda: client.run(code_here, on_error="return"), "what its workers run")
    for worker, told in found.items():
        if not isinstance(told, str):  # it cannot even import this module
            raise StageError(
                f"the worker {worker} cannot run this edgeres ({' '.join(str(told).split())}).",
                hint="Install the same edgeres for every worker and start the workers again.",
            )
        check_code(told, f"the worker {worker}")


def answer_shard(job: Job, start: int, stop: int, leave_out: bool) -> Shard:
    """Answers one shard: what a worker runs. Engine and data set stay open for the next one.

    The first and the last shard also try other batches; between them the engine is the same.

    Raises:
        StageError: This worker's edgeres is not the one that asks.
        EdgeResError: As :func:`edgeres.evaluation.predict.predict` and the backend's ``load``.
    """
    check_code(job.code_sha256, "a client of this worker")
    dataset = _dataset(job)
    skipped = BadImages(max_share=1.0) if leave_out else None
    task = task_of(json.loads(job.task))
    ask = predict if task is None else partial(answer_set, task=task)
    try:
        found = ask(
            _runner(job),
            dataset.subset(range(start, stop)),
            job.preprocess,
            batch_size=BATCH,
            skipped=skipped,
            batches_alike=start == 0 or stop == len(dataset),
        )
    except DataError:
        if skipped is None or len(skipped.reasons) != stop - start:
            raise
        found = None
    return Shard(
        start=start,
        stop=stop,
        answers=found,
        left_out=dict(skipped.reasons) if skipped is not None else {},
        worker=os.getpid(),
        code_sha256=CODE_SHA256,
    )


def _opened(data: str, said: Sequence[dict[str, Any]], names: tuple[str, ...]) -> Dataset:
    task = task_of(said)
    needed = task is None or task.needs_targets
    dataset = open_dataset(data, split="validation", labels_needed=needed)
    return in_order_of(dataset, names).dataset if task is None else dataset


@lru_cache(maxsize=1)
def _dataset(job: Job) -> Dataset:
    dataset = _opened(job.data, json.loads(job.task), job.class_names)
    if dataset.fingerprint != job.data_fingerprint:
        raise DataError(
            f"{job.data}: a worker finds other images there ({dataset.fingerprint[:12]} against "
            f"{job.data_fingerprint[:12]}).",
            hint="Give every worker the same data under the same path.",
        )
    return dataset


@lru_cache(maxsize=1)
def _runner(job: Job) -> Runner:
    engine = read_engine(Path(job.engine))
    if file_sha256(engine.path) != job.engine_sha256:
        raise ArtefactError(
            f"{job.engine}: a worker finds another engine there.",
            hint="Give every worker the same engine under the same path.",
        )
    config = BuildConfig(device=engine.device, threads=job.threads)
    return executable_backend(engine).load(engine, config)


def _dask() -> Any:
    return import_extra("distributed")


@contextmanager
def _client(scheduler: str | None, workers: int) -> Iterator[Any]:
    """A client of a running scheduler, or of workers that are started here and end with it."""
    dask = _dask()
    for name in ("distributed", "distributed.client"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what goes wrong is told in one line
    if scheduler is None:
        with (
            dask.LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                processes=True,
                dashboard_address=":0",
                silence_logs=logging.CRITICAL,
            ) as cluster,
            dask.Client(cluster) as client,
        ):
            yield client
        return
    try:
        # dask's own limit is for the connection: one that is taken and never answered has none.
        client = within(2 * _CONNECT_S, lambda: dask.Client(scheduler, timeout=_CONNECT_S))
    except (OSError, TimeoutError, ValueError) as error:
        raise BackendMissingError(
            f"{scheduler}: no dask scheduler answers there ({error or 'it says nothing'}).",
            hint="Start one with `dask scheduler`, and workers with `dask worker ADDRESS`.",
        ) from error
    with client:
        if not client.scheduler_info()["workers"]:
            raise BackendMissingError(
                f"{scheduler}: the scheduler has no workers.",
                hint="Start some with `dask worker ADDRESS --nthreads 1`.",
            )
        yield client
