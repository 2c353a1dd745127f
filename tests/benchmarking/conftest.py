"""Engines on a made-up clock: every time in these tests is exact, on any machine."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Self

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeres.backends.base import Array, BatchLimits
from edgeres.benchmarking import benchmark, latency
from edgeres.graph.summary import TensorSpec

WARM_CHANGE = latency._WARM_CHANGE


@pytest.fixture(autouse=True)
def whole_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """As they are for users; the root's conftest shortens them for all other tests."""
    monkeypatch.setattr(latency, "_WARM_CHANGE", WARM_CHANGE)
    monkeypatch.setattr(benchmark, "measure", latency.measure)


class Clock:
    """Nanoseconds that pass only when an engine runs."""

    def __init__(self) -> None:
        self.time = 0

    def __call__(self) -> int:
        self.time += 100  # reading a clock takes time too
        return self.time


class TimedEngine:
    """Averages its input and takes ``cost(run number, input)`` milliseconds for it."""

    inputs = (TensorSpec("image", (None, 1, 2, 2), "float32"),)
    outputs = (TensorSpec("scores", (None, 2), "float32"),)
    batch_limits = BatchLimits()

    def __init__(self, clock: Clock, cost: Callable[[int, Array], float]) -> None:
        self.clock = clock
        self.cost = cost
        self.runs = 0
        self.answer: Callable[[int, Array], Array] = lambda run, images: np.stack(
            [images.mean(axis=(1, 2, 3)), images.max(axis=(1, 2, 3))], axis=1
        )

    def infer(self, feeds: dict[str, Array]) -> dict[str, Array]:
        images = feeds["image"]
        self.runs += 1
        self.clock.time += round(1e6 * self.cost(self.runs, images))
        return {"scores": self.answer(self.runs, images)}

    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def engine(clock: Clock) -> Callable[..., TimedEngine]:
    """Builds engines; a number as cost is milliseconds a run, with 2 % of exact jitter."""

    def build(cost: float | Callable[[int, Array], float]) -> TimedEngine:
        if callable(cost):
            return TimedEngine(clock, cost)
        return TimedEngine(clock, lambda run, images: cost * (1 + 0.02 * (run % 5 - 2) / 2))

    return build


@pytest.fixture
def inputs() -> list[NDArray[np.float32]]:
    return [np.full((1, 1, 2, 2), value, dtype=np.float32) for value in range(1, 6)]
