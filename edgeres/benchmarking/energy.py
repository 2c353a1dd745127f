"""Energy of an inference: engines take turns with a machine that does nothing, under a meter.

A meter sees all that the machine, the package or the board draws, so what it draws when idle is
measured in the same rounds and told apart. Latency is measured elsewhere: a meter's own work and
the long runs that it needs would disturb it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from edgeres.backends.base import Array, Runner
from edgeres.backends.classifier import check_images, single_input
from edgeres.benchmarking.meters import Meter
from edgeres.system.progress import ProgressCallback

ROUNDS = 5
TURN_SECONDS = 1.0
_WARM_RUNS = 3


@dataclass(frozen=True)
class Energy:
    """What one engine takes, over the rounds.

    Attributes:
        joules: Median energy of an inference of one batch, all that the meter sees, in joules.
        joules_low: Least over the rounds.
        joules_high: Most over the rounds.
        above_idle: Median of what remains when the idle machine's power of the same round is taken
            off, in joules an inference.
        watts: Median power while it ran.
        idle_watts: Median power of the machine that did nothing.
        runs: Inferences over all rounds.
        meter: What was read.
    """

    joules: float
    joules_low: float
    joules_high: float
    above_idle: float
    watts: float
    idle_watts: float
    runs: int
    meter: str

    def to_dict(self) -> dict[str, object]:
        """As plain JSON values."""
        return asdict(self)


def measure_energy(
    runners: Mapping[str, Runner],
    inputs: Sequence[NDArray[np.float32]],
    meter: Meter,
    *,
    rounds: int = ROUNDS,
    turn_seconds: float = TURN_SECONDS,
    progress: ProgressCallback | None = None,
) -> dict[str, Energy]:
    """Runs each engine back to back for a turn in every round, and rests for one.

    Args:
        runners: Loaded engines by name, each with one image input of the same shape.
        inputs: Preprocessed batches that the runs go through.
        meter: Not yet opened.
        rounds: Turns of each engine and of the idle machine.
        turn_seconds: Length of a turn; sensors of boards tell every few hundredths of a second.
        progress: Called with rounds done and rounds in all.

    Returns:
        One result for each engine; none where the meter stood still in some turn.

    Raises:
        DataError: An input does not fit an engine.
        ModelError: An engine is no image classifier with one input.
        UsageError: A meter that stopped telling.
    """
    feeds = {name: _feeds(runner, inputs) for name, runner in runners.items()}
    for name, runner in runners.items():
        for number in range(_WARM_RUNS):
            runner.infer(feeds[name][number % len(inputs)])
    idle: list[float] = []
    turns: dict[str, list[_Turn]] = {name: [] for name in runners}
    with meter:
        for done in range(rounds):
            began, before = time.perf_counter(), meter.joules()
            time.sleep(turn_seconds)
            idle.append((meter.joules() - before) / (time.perf_counter() - began))
            for name in list(runners) if done % 2 == 0 else reversed(list(runners)):
                turns[name].append(_turn(runners[name], feeds[name], meter, turn_seconds))
            if progress is not None:
                progress(done + 1, rounds)
    if not all(turn.joules > 0.0 for told in turns.values() for turn in told):
        return {}
    return {name: _energy(told, idle, meter.name) for name, told in turns.items()}


@dataclass(frozen=True)
class _Turn:
    joules: float
    seconds: float
    runs: int


def _feeds(runner: Runner, inputs: Sequence[NDArray[np.float32]]) -> list[dict[str, Array]]:
    source = single_input(runner)
    for images in inputs:
        check_images(source, images)
    return [{source.name: np.ascontiguousarray(images, dtype=source.dtype)} for images in inputs]


def _turn(runner: Runner, feeds: Sequence[dict[str, Array]], meter: Meter, seconds: float) -> _Turn:
    runs = 0
    began, before = time.perf_counter(), meter.joules()
    while runs == 0 or time.perf_counter() - began < seconds:
        runner.infer(feeds[runs % len(feeds)])
        runs += 1
    return _Turn(meter.joules() - before, time.perf_counter() - began, runs)


def _energy(turns: Sequence[_Turn], idle: Sequence[float], meter: str) -> Energy:
    each = [turn.joules / turn.runs for turn in turns]
    above = [
        (turn.joules - watts * turn.seconds) / turn.runs
        for turn, watts in zip(turns, idle, strict=True)
    ]
    return Energy(
        joules=float(np.median(each)),
        joules_low=min(each),
        joules_high=max(each),
        above_idle=float(np.median(above)),
        watts=float(np.median([turn.joules / turn.seconds for turn in turns])),
        idle_watts=float(np.median(idle)),
        runs=sum(turn.runs for turn in turns),
        meter=meter,
    )
