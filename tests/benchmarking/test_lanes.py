"""Several runners side by side: every batch is answered once, and the faster way is taken."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from edgeres.backends._runner import CheckedRunner
from edgeres.backends.base import Array, BuildConfig
from edgeres.benchmarking.lanes import Choice, Lanes, choices, fastest
from edgeres.errors import StageError
from edgeres.graph.summary import TensorSpec

INPUT, OUTPUT = TensorSpec("x", (None, 2), "float32"), TensorSpec("y", (None, 2), "float32")


class Slow(CheckedRunner):
    """Takes a while for a run and a while for each sample, as threads go."""

    def __init__(self, backend: Waiting, threads: int | None) -> None:
        super().__init__((INPUT,), (OUTPUT,))
        self.backend, self.threads = backend, threads
        self.closed = False

    def _infer(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        with self.backend.lock:
            self.backend.now += 1
            self.backend.most = max(self.backend.most, self.backend.now)
        time.sleep(self.backend.seconds(self.threads, len(feeds["x"])))
        with self.backend.lock:
            self.backend.now -= 1
            self.backend.seen += feeds["x"][:, 0].tolist()
        if self.backend.broken:
            raise StageError("it broke.")
        return {"y": feeds["x"]}

    def _close(self) -> None:
        self.closed = True


class Waiting:
    """A backend whose engines only wait; alone ones on two threads for ``together`` of the time."""

    def __init__(self, together: float) -> None:
        self.together, self.broken = together, False
        self.lock, self.now, self.most = threading.Lock(), 0, 0
        self.seen: list[float] = []
        self.loaded: list[Slow] = []

    def seconds(self, threads: int | None, samples: int) -> float:
        return 0.001 + 0.0004 * samples * (self.together if threads != 1 else 1.0)

    def load(self, engine: Any, config: BuildConfig) -> Slow:
        self.loaded.append(Slow(self, config.threads))
        return self.loaded[-1]


def parts(count: int) -> list[Array]:
    return [np.full((3, 2), number, np.float32) for number in range(count)]


def test_every_batch_is_answered_once_and_several_at_a_time() -> None:
    backend = Waiting(0.5)
    done: list[int] = []
    with Lanes(None, backend, BuildConfig(), Choice(3, 1, 3)) as lanes:  # type: ignore[arg-type]
        lanes.run(parts(20), done.append)
    assert sorted(done) == list(range(20))
    assert sorted(backend.seen) == sorted([*range(20)] * 3)
    assert backend.most == 3
    assert [runner.closed for runner in backend.loaded] == [True] * 3


@pytest.mark.parametrize(("together", "wanted"), [(0.3, 1), (0.95, 2)])
def test_the_way_that_answers_most_is_taken(together: float, wanted: int) -> None:
    """With a perfect second core one runner of both takes half of the time."""
    backend = Waiting(together)
    config = BuildConfig(threads=2)
    lanes, rate = fastest(None, backend, config, parts(4), 32)  # type: ignore[arg-type]
    with lanes:
        assert lanes.choice.lanes == wanted
        assert rate > 0
        assert sum(not runner.closed for runner in backend.loaded) == wanted
    assert all(runner.closed for runner in backend.loaded)


def test_what_fails_is_told_and_nothing_stays_open() -> None:
    backend = Waiting(0.5)
    backend.broken = True
    with pytest.raises(StageError, match="broke"):
        fastest(None, backend, BuildConfig(threads=2), parts(2), 8)  # type: ignore[arg-type]
    assert all(runner.closed for runner in backend.loaded)


def test_one_core_has_one_runner() -> None:
    assert choices(1, 32) == [Choice(1, 1, 32)]
    assert {choice.lanes for choice in choices(4, 32)} == {1, 4}
    assert all(choice.threads == 1 for choice in choices(4, 32) if choice.lanes == 4)
