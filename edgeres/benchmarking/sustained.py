"""One engine without a pause for minutes: does it keep its speed, and if not, did the CPU?

Phones, boards and laptops are fast for a minute. The run is cut into windows; beside each a fixed
piece of work that has nothing to do with the engine is timed. Where both become slower together the
CPU itself was throttled; where only the engine does, something else is wrong.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from edgeres.backends.base import Array, Runner
from edgeres.backends.classifier import check_images, single_input
from edgeres.benchmarking.load import fixed_work_ns
from edgeres.errors import UsageError
from edgeres.system.progress import ProgressCallback

_WINDOWS = 60
_LEAST_WINDOW_S = 0.05
_DRIFT = 0.05  # of the median, from the first to the last tenth of the time
_WORK_DRIFT = 0.05
_WARM_RUNS = 10


@dataclass(frozen=True)
class Window:
    """A part of the run: when it began, its median and p99 in ms, and the fixed work's time."""

    start_s: float
    p50_ms: float
    p99_ms: float
    work_ns: int


@dataclass(frozen=True)
class Sustained:
    """How an engine kept its speed.

    Attributes:
        seconds: Length of the run.
        runs: Runs in it.
        windows: Its parts, in order.
        drift: Median of the last tenth of the windows over that of the first, less 1.
        work_drift: The same of the fixed work, which only the CPU can slow.
        verdict: ``steady``, ``throttled`` (engine and CPU slowed together), ``slowed`` (only the
            engine) or ``sped up``.
    """

    seconds: float
    runs: int
    windows: tuple[Window, ...]
    drift: float
    work_drift: float
    verdict: str

    def to_dict(self) -> dict[str, object]:
        """As plain JSON values."""
        return asdict(self) | {"windows": [asdict(window) for window in self.windows]}


def sustain(
    runner: Runner,
    inputs: Sequence[NDArray[np.float32]],
    seconds: float,
    *,
    clock: Callable[[], int] = time.perf_counter_ns,
    work: Callable[[], int] | None = None,
    progress: ProgressCallback | None = None,
) -> Sustained:
    """Runs an engine back to back.

    Args:
        runner: The loaded engine.
        inputs: Preprocessed batches that the runs go through.
        seconds: Length; throttling needs minutes to show.
        clock: Monotonic clock in nanoseconds.
        work: Times the fixed work, in nanoseconds; left out, see
            :func:`edgeres.benchmarking.load.fixed_work_ns`.
        progress: Called with windows done and windows in all.

    Raises:
        UsageError: A time too short for windows, or no input.
        DataError: An input does not fit the engine.
        ModelError: The engine is no image classifier with one input.
    """
    if not inputs or not _LEAST_WINDOW_S * 10 <= seconds < float("inf"):
        raise UsageError(
            f"expected inputs and at least {_LEAST_WINDOW_S * 10:g} seconds, got {len(inputs)} "
            f"and {seconds:g}.",
            hint="Throttling shows after minutes: try 600.",
        )
    work = work or (lambda: fixed_work_ns(clock))
    source = single_input(runner)
    feeds: list[dict[str, Array]] = []
    for images in inputs:
        check_images(source, images)
        feeds.append({source.name: np.ascontiguousarray(images, dtype=source.dtype)})
    for number in range(_WARM_RUNS):
        runner.infer(feeds[number % len(feeds)])
    count = max(10, min(_WINDOWS, int(seconds / _LEAST_WINDOW_S)))
    begin = clock()
    runs = 0
    windows = []
    for number in range(count):
        start = clock()
        end = begin + round(1e9 * seconds * (number + 1) / count)
        took: list[int] = []
        while not took or clock() < end:
            before = clock()
            runner.infer(feeds[runs % len(feeds)])
            took.append(clock() - before)
            runs += 1
        p50, p99 = np.percentile(took, [50, 99], method="inverted_cdf") / 1e6
        windows.append(Window((start - begin) / 1e9, float(p50), float(p99), work()))
        if progress is not None:
            progress(number + 1, count)
    drift = _drift([window.p50_ms for window in windows])
    work_drift = _drift([window.work_ns for window in windows])
    return Sustained(
        seconds=(clock() - begin) / 1e9,
        runs=runs,
        windows=tuple(windows),
        drift=drift,
        work_drift=work_drift,
        verdict=_verdict(drift, work_drift),
    )


def _drift(values: Sequence[float]) -> float:
    tenth = max(1, len(values) // 10)
    first, last = float(np.median(values[:tenth])), float(np.median(values[-tenth:]))
    return last / first - 1 if first > 0 else 0.0


def _verdict(drift: float, work_drift: float) -> str:
    if drift > _DRIFT:
        return "throttled" if work_drift > _WORK_DRIFT else "slowed"
    return "sped up" if drift < -_DRIFT else "steady"
