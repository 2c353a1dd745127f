"""Latency of loaded engines, measured side by side.

The engines take turns in short rounds, so that a slow minute of the machine hits all of them; the
order turns round every time. Each turn begins with a rest and with runs that are not counted,
because threads of the engine before may still spin. Times come from a monotonic clock. What makes
the numbers doubtful is written beside them (see :mod:`edgeres.benchmarking.stability`).
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from edgeres.backends.base import Array, Runner
from edgeres.backends.classifier import check_images, single_input
from edgeres.benchmarking.load import fixed_work_ns, now, other_load, usable_cpus
from edgeres.benchmarking.outputs import OutputWatch
from edgeres.benchmarking.quantile import QuantileInterval, quantile_interval
from edgeres.benchmarking.stability import engine_doubts, machine_doubts
from edgeres.errors import UsageError
from edgeres.system.progress import ProgressCallback

Clock = Callable[[], int]

_WARM_BLOCK_NS = 20_000_000
_WARM_BLOCKS = 3  # blocks in a row that must agree before an engine counts as warm
_WARM_CHANGE = 0.05  # their medians may differ by this share
_SETTLE_RUNS = 2
_SETTLE_NS = 5_000_000
_LEAST_RUNS_A_TURN = 3
_LEAST_ROUNDS = 3

GATE_RUNS = 2000
"""Runs for a limit of the 99th percentile: 299 independent ones are the least, and runs are not."""


@dataclass(frozen=True)
class MeasureSettings:
    """How long and how often to measure.

    Attributes:
        seconds: Time that each engine is measured, over all rounds.
        rounds: Turns that each engine takes.
        min_runs: Runs that each engine makes at least; 100 are needed for a 99th percentile, and
            :data:`GATE_RUNS` to judge one.
        max_seconds: Time for each engine after which no further round begins.
        warmup_seconds: Longest warm-up for each engine.
        pause_seconds: Rest before each turn, in which the threads of the engine before stop
            spinning.

    Raises:
        UsageError: A number that makes no sense.
    """

    seconds: float = 4.0
    rounds: int = 20
    min_runs: int = 100
    max_seconds: float = 120.0
    warmup_seconds: float = 5.0
    pause_seconds: float = 0.01

    def __post_init__(self) -> None:
        """Checks the numbers; written so that NaN is refused too."""
        for name in ("seconds", "max_seconds", "warmup_seconds"):
            if not 0.0 < getattr(self, name) < float("inf"):
                raise UsageError(
                    f"{name}: expected a time above 0 seconds, got {getattr(self, name):g}.",
                    hint="Measure for some seconds.",
                )
        if self.seconds > self.max_seconds:
            raise UsageError(
                f"seconds: expected at most {self.max_seconds:g}, after which no round begins, got "
                f"{self.seconds:g}.",
                hint="Measure for less time.",
            )
        if not 0.0 <= self.pause_seconds <= 60.0:
            raise UsageError(
                f"pause_seconds: expected 0 to 60 seconds, got {self.pause_seconds:g}.",
                hint="Leave it out for the usual 0.01.",
            )
        if self.rounds < _LEAST_ROUNDS or self.min_runs < 1:
            raise UsageError(
                f"expected at least {_LEAST_ROUNDS} rounds and 1 run, got {self.rounds} and "
                f"{self.min_runs}.",
                hint="Leave both out for the usual 20 and 100.",
            )


@dataclass(frozen=True)
class Latency:
    """Times of one engine, one synchronous run at a time, in milliseconds.

    Attributes:
        p50_ms: Median; this and the other percentiles are times that really occurred (nearest
            rank).
        p90_ms: 90th percentile.
        p99_ms: 99th percentile; with fewer than 100 runs the slowest.
        p999_ms: 99.9th percentile, ``None`` with fewer than 1,000 runs.
        min_ms: Fastest run.
        mean_ms: Mean.
        runs: Runs that were counted.
        batch_size: Images in a run.
        throughput_per_s: Images a second, one run after the other.
        first_ms: The very first run, where runtimes still allocate and compile.
        warmup_runs: Runs before the counted ones.
        overhead_ms: p50 of an engine that computes nothing, measured in the same way; ``None``
            where none was given.
        round_medians_ms: Median of each turn, in order.
        doubts: Why the numbers may not hold, in words; empty where they are stable.
        quantiles_ms: Percentiles 0 to 100 in steps of one, for drawing the distribution.
        turns_ms: Times of all runs, turn by turn, in order.
    """

    p50_ms: float
    p90_ms: float
    p99_ms: float
    p999_ms: float | None
    min_ms: float
    mean_ms: float
    runs: int
    batch_size: int
    throughput_per_s: float
    first_ms: float
    warmup_runs: int
    overhead_ms: float | None
    round_medians_ms: tuple[float, ...] = field(repr=False)
    doubts: tuple[str, ...] = ()
    quantiles_ms: tuple[float, ...] = field(default=(), repr=False)
    turns_ms: tuple[NDArray[np.float64], ...] = field(default=(), repr=False, compare=False)

    @property
    def stable(self) -> bool:
        """Whether nothing speaks against the numbers."""
        return not self.doubts

    def p99_interval(self, confidence: float = 0.95) -> QuantileInterval:
        """Where the true 99th percentile lies; see :mod:`edgeres.benchmarking.quantile`."""
        return quantile_interval(self.turns_ms, 0.99, confidence)

    def to_dict(self) -> dict[str, object]:
        """As plain JSON values, with the field names of ``report.json``."""
        p99 = self.p99_interval()
        return {
            "latency_ms": {
                "p50": self.p50_ms,
                "p90": self.p90_ms,
                "p99": self.p99_ms,
                "p999": self.p999_ms,
                "min": self.min_ms,
                "mean": self.mean_ms,
            },
            "p99_interval_ms": [p99.low_ms, p99.high_ms],
            "runs": self.runs,
            "effective_runs": p99.effective_runs,
            "batch_size": self.batch_size,
            "throughput_per_s": self.throughput_per_s,
            "first_ms": self.first_ms,
            "warmup_runs": self.warmup_runs,
            "overhead_ms": self.overhead_ms,
            "stable": self.stable,
            "doubts": list(self.doubts),
        }


def measure(
    runners: Mapping[str, Runner],
    inputs: Sequence[NDArray[np.float32]],
    *,
    settings: MeasureSettings | None = None,
    nothing: Runner | None = None,
    progress: ProgressCallback | None = None,
    clock: Clock = time.perf_counter_ns,
) -> dict[str, Latency]:
    """Measures engines that take turns.

    Args:
        runners: Loaded engines by name, each with one image input of the same shape.
        inputs: At least two different preprocessed batches, each ``(N, C, H, W)`` or
            ``(N, H, W, C)``, that the runs go through; answers must follow them.
        settings: How long and how often.
        nothing: An engine that computes nothing; its time is what the measuring itself takes.
        progress: Called with rounds done and rounds in all.
        clock: Monotonic clock in nanoseconds.

    Returns:
        One result for each of ``runners``.

    Raises:
        UsageError: No engine, or fewer than two different inputs.
        DataError: An input does not fit an engine.
        ModelError: An engine is no image classifier with one input.
    """
    settings = settings or MeasureSettings()
    _check_inputs(runners, inputs)
    lanes = [_Lane(name, runner, inputs, settings, clock) for name, runner in runners.items()]
    short = replace(settings, seconds=min(settings.seconds, 0.1), warmup_seconds=0.1)
    idle = _Lane("nothing", nothing, inputs, short, clock) if nothing is not None else None
    everyone = [*lanes, idle] if idle is not None else lanes
    for lane in everyone:
        lane.warm_up()
    work_ns: list[int] = []
    begin = now()
    done = 0
    while (
        done < _LEAST_ROUNDS
        or (done < settings.rounds and any(lane.has_time for lane in lanes))
        or any(lane.has_time and lane.wants_more for lane in lanes)
    ):
        work_ns.append(fixed_work_ns(clock))
        for lane in everyone if done % 2 == 0 else reversed(everyone):
            lane.take_turn()
        done += 1
        if progress is not None:
            progress(min(done, settings.rounds), settings.rounds)
    machine = machine_doubts(other_load(begin, now()), usable_cpus(), work_ns)
    overhead = float(np.median(np.concatenate(idle.turns))) / 1e6 if idle is not None else None
    return {lane.name: lane.result(overhead, machine) for lane in lanes}


class _Lane:
    """One engine's turns: its inputs, its warm-up and its times in nanoseconds."""

    def __init__(
        self,
        name: str,
        runner: Runner,
        inputs: Sequence[NDArray[np.float32]],
        settings: MeasureSettings,
        clock: Clock,
    ) -> None:
        self.name = name
        self.turns: list[NDArray[np.int64]] = []
        self._runner = runner
        self._settings = settings
        self._clock = clock
        source = single_input(runner)
        for images in inputs:
            check_images(source, images)
        self._feeds: list[dict[str, Array]] = [
            {source.name: np.ascontiguousarray(images, dtype=source.dtype)} for images in inputs
        ]
        self._batch = len(inputs[0])
        self._next = 0
        self._outputs = OutputWatch(runner, self._feeds, clock)
        self._first_ns = 0
        self._warm_runs = 0
        self._warm = False

    @property
    def wants_more(self) -> bool:
        """Whether more runs are needed."""
        return sum(len(turn) for turn in self.turns) < self._settings.min_runs

    @property
    def has_time(self) -> bool:
        """Whether this engine's time is not used up."""
        return sum(int(turn.sum()) for turn in self.turns) < self._settings.max_seconds * 1e9

    def warm_up(self) -> None:
        """Runs until the medians of three blocks in a row agree, or time is up."""
        end = self._clock() + round(self._settings.warmup_seconds * 1e9)
        with _no_garbage_collection():
            self._first_ns = self._run()
            self._outputs.remember()
            medians: list[float] = []
            while self._clock() < end and not self._warm:
                times = self._block(_WARM_BLOCK_NS)
                self._warm_runs += len(times)
                medians.append(float(np.median(times)))
                last = medians[-_WARM_BLOCKS:]
                agree = max(last) - min(last) <= _WARM_CHANGE * max(last)
                self._warm = len(last) == _WARM_BLOCKS and agree

    def take_turn(self) -> None:
        """Measures for this engine's share of a round, after a rest and some runs for warmth."""
        time.sleep(self._settings.pause_seconds)
        with _no_garbage_collection():
            settled = self._clock() + _SETTLE_NS
            runs = 0
            while runs < _SETTLE_RUNS or self._clock() < settled:
                took = self._run()
                runs += 1
                if took > _SETTLE_NS and runs >= _SETTLE_RUNS:
                    break
            share = round(self._settings.seconds / self._settings.rounds * 1e9)
            self.turns.append(self._block(share))

    def result(self, overhead_ms: float | None, machine: Sequence[str]) -> Latency:
        """The figures, with every doubt about them."""
        times = np.sort(np.concatenate(self.turns)) / 1e6
        medians = tuple(float(np.median(turn)) / 1e6 for turn in self.turns)
        mean = float(times.mean())
        doubts = [*engine_doubts(medians, times, warm=self._warm), *machine]
        doubts += self._outputs.audit()
        return Latency(
            p50_ms=_percentile(times, 50),
            p90_ms=_percentile(times, 90),
            p99_ms=_percentile(times, 99),
            p999_ms=_percentile(times, 99.9) if len(times) >= 1000 else None,
            min_ms=float(times[0]),
            mean_ms=mean,
            runs=len(times),
            batch_size=self._batch,
            throughput_per_s=1000 * self._batch / mean if mean > 0 else 0.0,
            first_ms=self._first_ns / 1e6,
            warmup_runs=self._warm_runs + 1,
            overhead_ms=overhead_ms,
            round_medians_ms=medians,
            doubts=tuple(doubts),
            quantiles_ms=tuple(_percentile(times, percent) for percent in range(101)),
            turns_ms=tuple(turn / 1e6 for turn in self.turns),
        )

    def _block(self, nanoseconds: int) -> NDArray[np.int64]:
        """Runs one after the other for a time, at least three; their times."""
        end = self._clock() + nanoseconds
        times: list[int] = []
        while len(times) < _LEAST_RUNS_A_TURN or self._clock() < end:
            times.append(self._run())
        return np.array(times, dtype=np.int64)

    def _run(self) -> int:
        index = self._next % len(self._feeds)
        feed = self._feeds[index]
        self._next += 1
        start = self._clock()
        outputs = self._runner.infer(feed)
        took = self._clock() - start
        self._outputs.saw(index, outputs)
        return took


def _percentile(times: NDArray[np.float64], percent: float) -> float:
    return float(np.percentile(times, percent, method="inverted_cdf"))


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Keeps Python's collector out of the times, as :mod:`timeit` does."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _check_inputs(runners: Mapping[str, Runner], inputs: Sequence[NDArray[np.float32]]) -> None:
    if not runners:
        raise UsageError("expected at least one engine to measure, got none.", hint="Name one.")
    different = any(not np.array_equal(inputs[0], other) for other in inputs[1:])
    if not different or len({len(images) for images in inputs}) != 1:
        raise UsageError(
            f"expected at least two different inputs of one batch size, got {len(inputs)}.",
            hint="With a single input a cached answer would look fast.",
        )
