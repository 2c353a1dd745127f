"""What built engines answer, and how fast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeres.backends.base import BuildConfig, Engine
from edgeres.backends.target import Target
from edgeres.benchmarking.benchmark import EngineTimes, benchmark
from edgeres.benchmarking.latency import GATE_RUNS, MeasureSettings
from edgeres.data.bad_images import BadImages
from edgeres.data.batches import batches
from edgeres.data.preprocess import Preprocess
from edgeres.data.types import Dataset
from edgeres.errors import DataError
from edgeres.evaluation import run_folder
from edgeres.evaluation.answer_set import answer_set
from edgeres.evaluation.predict import predict
from edgeres.evaluation.predictions import Predictions, load_predictions
from edgeres.pipeline.keys import machine_key, path_key, place_key, run_key
from edgeres.pipeline.run import Run
from edgeres.pipeline.tasks import task_key
from edgeres.system.container_limits import usable_threads
from edgeres.system.files import file_sha256
from edgeres.system.progress import ProgressCallback
from edgeres.tasks.answers import Answers, load_answers

F32 = NDArray[np.float32]

LEFT_OUT = "left_out.txt"
EVALUATION_BATCH = 64
LATENCY_INPUTS = 8


@dataclass(frozen=True)
class TimedEngines:
    """Engines of one target that are timed together.

    Attributes:
        target: Their target.
        fp32: The network that the user brought.
        engine: What the run made of it.
        unpruned: The same without pruning; ``None`` where nothing was pruned.
        floats: Other float engines of that network, by their arithmetic.
    """

    target: Target
    fp32: Engine
    engine: Engine
    unpruned: Engine | None = None
    floats: Mapping[str, Engine] = field(default_factory=dict)

    @property
    def all(self) -> tuple[Engine, ...]:
        """Those that there are."""
        unpruned = [self.unpruned] if self.unpruned else []
        return (self.fp32, self.engine, *unpruned, *self.floats.values())


@dataclass(frozen=True)
class MeasuredTimes:
    """What was measured of :class:`TimedEngines`."""

    fp32: EngineTimes
    engine: EngineTimes
    unpruned: EngineTimes | None = None
    floats: Mapping[str, EngineTimes] = field(default_factory=dict)

    @property
    def yardstick(self) -> tuple[str, EngineTimes]:
        """Arithmetic and times of the fastest float engine: what INT8 has to beat."""
        floats = {"fp32": self.fp32, **self.floats}
        return min(floats.items(), key=lambda item: item[1].latency.p50_ms)


def predictions(
    run: Run,
    engine: Engine,
    target: Target,
    *,
    validation: Dataset,
    preprocess: Preprocess,
    label: str,
) -> Predictions | Answers:
    """Runs an engine over the validation images, each once.

    Returns:
        Class scores, or what the run's task keeps.

    Raises:
        EdgeResError: As :func:`edgeres.evaluation.predict.predict`,
            :func:`edgeres.evaluation.answer_set.answer_set` and the backend's ``load``.
    """
    task = run.task
    ask = predict if task is None else partial(answer_set, task=task)

    def produce(folder: Path, _: Path, progress: ProgressCallback) -> None:
        skipped = BadImages()
        with target.backend.load(
            engine, BuildConfig(target.device, options=path_key(target))
        ) as runner:
            ask(
                runner,
                validation,
                preprocess,
                batch_size=EVALUATION_BATCH,
                name=label,
                model_sha256=engine.source_sha256,
                workers=usable_threads(),
                skipped=skipped,
                progress=progress,
            ).save(folder / run_folder.PREDICTIONS)
        (folder / LEFT_OUT).write_text(skipped.summary())

    result = run.stage(
        "evaluate",
        inputs={"engine": file_sha256(engine.path), "data": validation.fingerprint},
        settings={
            **place_key(target),
            **machine_key(run),
            **run_key(engine),
            "preprocess": preprocess.to_dict(),
            **task_key(run),
        },
        produce=produce,
        label=f"evaluate ({label})",
    )
    run.warn_once(result.file(LEFT_OUT).read_text())
    stored = result.file(run_folder.PREDICTIONS)
    return load_predictions(stored) if task is None else load_answers(stored)


def timed_batches(parts: Sequence[F32], size: int) -> list[F32]:
    """At least two different batches of one size to time an engine with; none from too few images.

    Where there are images for one batch but not for two, the second begins in the middle of the
    first and goes round.

    Args:
        parts: The images ``(n, ...) float32`` in parts of at most ``size``.
        size: Images in a batch.
    """
    whole = [part for part in parts if len(part) == size][:LATENCY_INPUTS]
    if len(whole) >= 2 or not parts:
        return whole
    images = np.concatenate(parts)
    if len(images) < max(2, size):
        return []
    starts = (0, len(images) // 2)
    return [images[(start + np.arange(size)) % len(images)] for start in starts]


def latencies(
    run: Run,
    engines: Sequence[TimedEngines],
    validation: Dataset,
    preprocess: Preprocess,
) -> dict[str, MeasuredTimes]:
    """Times the engines of every target, all taking turns.

    Args:
        run: The run.
        engines: Of each target.
        validation: Where the images come from.
        preprocess: How an image becomes numbers.

    Returns:
        By the target's name.

    Raises:
        EdgeResError: As :func:`edgeres.benchmarking.benchmark.benchmark`.
    """
    settings = run.recipe.benchmark
    least = 100 if run.recipe.gates.max_p99_ms is None else GATE_RUNS
    size = settings.batch_size
    images = validation.subset(range(min(len(validation), LATENCY_INPUTS * size)))
    parts = [part for part, _ in batches(images, preprocess, size, skipped=BadImages(1.0))]
    feeds = timed_batches(parts, size)
    if not feeds:
        raise DataError(
            f"{validation.name}: too few of its images can be decoded to time batches of {size}.",
            hint="Lower `benchmark: {batch_size: ...}`, or mend the images.",
        )
    with run.measured("benchmark") as progress:
        times = benchmark(
            # A network that is kept in FP32 unpruned is its own baseline, measured once.
            list(dict.fromkeys(one.path for each in engines for one in each.all)),
            inputs=feeds,
            threads=settings.threads,
            settings=MeasureSettings(seconds=settings.seconds, min_runs=least),
            options={one.path: path_key(each.target) for each in engines for one in each.all},
            progress=progress,
        ).engines
    return {
        each.target.name: MeasuredTimes(
            times[str(each.fp32.path)],
            times[str(each.engine.path)],
            times[str(each.unpruned.path)] if each.unpruned else None,
            {name: times[str(one.path)] for name, one in each.floats.items()},
        )
        for each in engines
    }
