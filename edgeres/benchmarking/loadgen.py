"""MLPerf's own load generator on an engine: four scenarios, with its own verdict on each run.

LoadGen (MLPerf Inference, arXiv:1911.02549) decides when queries come, measures, and says whether
the run was valid. It keeps global state and writes log files, so each run is a child process in a
folder of its own. The quick measurement of :mod:`edgeres.benchmarking.latency` must agree with its
single-stream scenario.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgeres.backends.base import Array, BuildConfig, Engine
from edgeres.backends.classifier import single_input
from edgeres.backends.fit import executable_backend
from edgeres.backends.sidecar import read_engine
from edgeres.benchmarking.inputs import made_up_inputs
from edgeres.benchmarking.lanes import Choice, Lanes, fastest
from edgeres.benchmarking.loadgen_summary import SCENARIOS, LoadGenResult, Scenario, parse_summary
from edgeres.errors import StageError, UsageError
from edgeres.system.child import run_limited
from edgeres.system.closing import Closing
from edgeres.system.extras import import_extra
from edgeres.system.temporary import temporary_folder

_NAMES = {
    "single_stream": "SingleStream",
    "multi_stream": "MultiStream",
    "server": "Server",
    "offline": "Offline",
}
_SAMPLES = 64  # different images that queries are made of
# LoadGen stops being unsure of a 90th percentile at 64 queries and of a 99th at 662.
_LEAST_QUERIES = {"single_stream": 100, "multi_stream": 662, "server": 662, "offline": 1}
_STREAMS = 8  # samples in a multi-stream query, as MLPerf fixes it
LATENCY_BOUND_MS = 15.0
_OFFLINE_BATCH = 32
_WARM_RUNS = 10
_SPARE_SECONDS = 120.0  # for loading, warm-up and queries under way when time is up


@dataclass(frozen=True)
class LoadGenSettings:
    """One LoadGen run.

    Attributes:
        scenario: ``single_stream``: one sample after the other; ``multi_stream``: eight at once;
            ``server``: samples come at random times; ``offline``: all at once.
        seconds: Least duration. MLPerf submissions take 600.
        min_queries: Least number of queries; left out, as many as LoadGen needs to be sure of the
            scenario's percentile.
        target_qps: Samples a second that come in ``server``, or that are expected in ``offline``
            (left out there, what the warm-up reaches).
        latency_bound_ms: Latency that 99 % of the server queries must keep.
        threads: CPU threads; ``None`` leaves the choice to the runtime.

    Raises:
        UsageError: An unknown scenario or a number that makes no sense.
    """

    scenario: Scenario = "single_stream"
    seconds: float = 10.0
    min_queries: int | None = None
    target_qps: float | None = None
    latency_bound_ms: float = LATENCY_BOUND_MS
    threads: int | None = None

    def __post_init__(self) -> None:
        """Checks the settings."""
        if self.scenario not in SCENARIOS:
            raise UsageError(
                f"there is no scenario {self.scenario!r}.",
                hint=f"Choose one of: {', '.join(SCENARIOS)}.",
            )
        numbers = (self.seconds, self.min_queries, self.target_qps, self.latency_bound_ms)
        values = [number for number in numbers if number is not None]
        if not all(0 < number < float("inf") for number in values):
            raise UsageError(
                f"expected times, counts and rates above zero, got {values}.",
                hint="Leave them out for the usual ones.",
            )
        if self.scenario == "server" and self.target_qps is None:
            raise UsageError(
                "the server scenario needs the rate at which samples come.",
                hint="Give the target in samples a second.",
            )


def run_engines(paths: Sequence[Path], settings: LoadGenSettings) -> dict[str, LoadGenResult]:
    """Runs one scenario on several engines, one after the other; results by the path as given.

    Raises:
        EdgeResError: As :func:`run_loadgen`.
    """
    return {str(path): run_loadgen(path, settings) for path in paths}


def run_loadgen(path: Path, settings: LoadGenSettings | None = None) -> LoadGenResult:
    """Runs one LoadGen scenario on a built engine, in a child process.

    Args:
        path: The engine file, with its sidecar beside it.
        settings: The scenario.

    Raises:
        ArtefactError: No whole engine is there.
        BackendMissingError: LoadGen is not installed, or the engine cannot run on this machine.
        StageError: The run crashed or did not end.
    """
    settings = settings or LoadGenSettings()
    read_engine(path)
    _loadgen()
    with temporary_folder() as folder:
        summary, lanes = run_limited(
            run_here, seconds=10 * settings.seconds + _SPARE_SECONDS, memory_bytes=None
        )(path, settings, folder)
    return replace(parse_summary(settings.scenario, summary), lanes=lanes)


def run_here(path: Path, settings: LoadGenSettings, folder: Path) -> tuple[str, int]:
    """Runs a scenario in this process: LoadGen's summary and the runners side by side."""
    engine = read_engine(path)
    config = BuildConfig(device=engine.device, threads=settings.threads)
    with _System(engine, config, settings.scenario) as system:
        _start(_loadgen(), system, settings, folder)
        lanes = system.lanes.choice.lanes
    try:
        return (folder / "mlperf_log_summary.txt").read_text(encoding="utf-8"), lanes
    except OSError as error:
        raise StageError(
            f"LoadGen left no summary for {path}.", hint="Run again with a longer time."
        ) from error


class _System(Closing):
    """The engine as LoadGen sees it: gets sample numbers, says when they are answered.

    Where all samples come at once, it chooses how many runners share the cores.
    """

    def __init__(self, engine: Engine, config: BuildConfig, scenario: Scenario) -> None:
        backend = executable_backend(engine)
        with backend.load(engine, config) as runner:
            source = single_input(runner)
        self._samples = made_up_inputs(source, 1, count=_SAMPLES)
        if scenario == "offline":
            self.lanes, self.samples_per_s = fastest(
                engine, backend, config, self._samples, _OFFLINE_BATCH
            )
        else:
            batch = _STREAMS if scenario == "multi_stream" else 1
            self.lanes = Lanes(engine, backend, config, Choice(1, config.threads, batch))
            self.samples_per_s = self._warm_up()

    @property
    def samples(self) -> int:
        """Different images that there are."""
        return len(self._samples)

    def _warm_up(self) -> float:
        """Runs a few batches, which LoadGen leaves to the system; the rate of the fastest."""
        best, batch = 0, self.lanes.choice.batch
        for _ in range(_WARM_RUNS):
            start = time.perf_counter_ns()
            self.lanes.run([self._batch(range(batch))])
            took = time.perf_counter_ns() - start
            best = took if best == 0 else min(best, took)
        return batch / max(best, 1) * 1e9

    def answer(self, loadgen: Any, samples: Sequence[Any]) -> None:
        """Answers samples in batches and reports each batch when it is done."""
        size = self.lanes.choice.batch
        parts = [samples[start : start + size] for start in range(0, len(samples), size)]

        def done(number: int) -> None:
            loadgen.QuerySamplesComplete(
                [loadgen.QuerySampleResponse(sample.id, 0, 0) for sample in parts[number]]
            )

        self.lanes.run(
            _Lazily([[sample.index for sample in part] for part in parts], self._batch), done
        )

    def _batch(self, indices: Sequence[int]) -> Array:
        return np.concatenate([self._samples[index % self.samples] for index in indices])

    def close(self) -> None:
        """Frees the engine."""
        self.lanes.close()


@dataclass(frozen=True)
class _Lazily(Sequence[Array]):
    """Batches that are put together when they are asked for: a query may have thousands."""

    indices: Sequence[Sequence[int]]
    make: Callable[[Sequence[int]], Array]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, number: Any) -> Any:
        return self.make(self.indices[number])


def _start(loadgen: Any, system: _System, settings: LoadGenSettings, folder: Path) -> None:
    """Runs LoadGen. Server queries wait in a line, so that none holds up the next arrival."""
    waiting: queue.SimpleQueue[Sequence[Any] | None] = queue.SimpleQueue()
    failures: list[Exception] = []

    def answer(samples: Sequence[Any]) -> None:
        try:
            system.answer(loadgen, samples)
        except Exception as error:  # LoadGen would wait for ever; told after the run
            failures.append(error)
            responses = [loadgen.QuerySampleResponse(sample.id, 0, 0) for sample in samples]
            loadgen.QuerySamplesComplete(responses)

    def serve() -> None:
        while (samples := waiting.get()) is not None:
            answer(samples)

    def nothing(*_: object) -> None:
        """All samples are in memory already, and no query is held back."""

    worker = threading.Thread(target=serve, name="edgeres-loadgen")
    worker.start()
    sut = loadgen.ConstructSUT(waiting.put if settings.scenario == "server" else answer, nothing)
    qsl = loadgen.ConstructQSL(system.samples, system.samples, nothing, nothing)
    try:
        loadgen.StartTestWithLogSettings(
            sut,
            qsl,
            _test_settings(loadgen, settings, system.samples_per_s),
            _log_settings(loadgen, folder),
        )
    finally:
        loadgen.DestroyQSL(qsl)
        loadgen.DestroySUT(sut)
        waiting.put(None)
        worker.join()
    if failures:
        raise failures[0]


def _test_settings(loadgen: Any, settings: LoadGenSettings, samples_per_s: float) -> Any:
    result = loadgen.TestSettings()
    result.scenario = getattr(loadgen.TestScenario, _NAMES[settings.scenario])
    result.mode = loadgen.TestMode.PerformanceOnly
    result.min_duration_ms = round(1000 * settings.seconds)
    result.min_query_count = settings.min_queries or _LEAST_QUERIES[settings.scenario]
    result.multi_stream_samples_per_query = _STREAMS
    # LoadGen prepares as many queries as fit at this speed; more than enough is better than less.
    query_ns = max(1, round(0.25e9 / samples_per_s))
    result.single_stream_expected_latency_ns = query_ns
    result.multi_stream_expected_latency_ns = query_ns * _STREAMS
    result.server_target_qps = settings.target_qps or 1.0
    result.offline_expected_qps = settings.target_qps or samples_per_s
    result.server_target_latency_ns = round(1e6 * settings.latency_bound_ms)
    return result


def _log_settings(loadgen: Any, folder: Path) -> Any:
    logs = loadgen.LogSettings()
    logs.log_output.outdir = str(folder)
    logs.log_output.copy_summary_to_stdout = False
    logs.enable_trace = False
    return logs


def _loadgen() -> Any:
    return import_extra("mlperf_loadgen", extra="loadgen")
