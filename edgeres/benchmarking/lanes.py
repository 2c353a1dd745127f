"""Throughput: several runners of one engine side by side, where that is faster than one.

One engine on all cores waits for its slowest thread at each layer. Two on half of the cores each do
not wait for each other, and need more memory. Which is faster depends on network and machine, so
both are tried.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

from edgeres.backends.base import Array, Backend, BuildConfig, Engine
from edgeres.backends.classifier import fed_batches, single_input
from edgeres.system.closing import Closing
from edgeres.system.container_limits import usable_threads

_TRIAL_SECONDS = 0.6


@dataclass(frozen=True)
class Choice:
    """One way to share the cores.

    Attributes:
        lanes: Runners side by side.
        threads: CPU threads of each; ``None`` leaves the choice to the runtime.
        batch: Samples of a run.
    """

    lanes: int
    threads: int | None
    batch: int


class Lanes(Closing):
    """Runners of one engine, each in a thread of its own."""

    def __init__(
        self, engine: Engine, backend: Backend, config: BuildConfig, choice: Choice
    ) -> None:
        """Loads them.

        Raises:
            EdgeResError: As the backend's ``load``.
        """
        self.choice = choice
        own = BuildConfig(device=config.device, threads=choice.threads, options=config.options)
        with ExitStack() as stack:
            self.runners = [
                stack.enter_context(backend.load(engine, own)) for _ in range(choice.lanes)
            ]
            self._close_runners = stack.pop_all().close
        self._pool = ThreadPoolExecutor(choice.lanes, thread_name_prefix="edgeres-lane")
        self._idle = list(self.runners)

    def run(self, parts: Sequence[Array], done: Callable[[int], None] | None = None) -> None:
        """Runs all parts, as many at once as there are lanes.

        Args:
            parts: Batches.
            done: Called with the number of each part, when it is answered, in any order and from
                any thread.
        """

        def one(number: int) -> None:
            runner = self._idle.pop()  # as many threads as runners: there is one
            try:
                name = single_input(runner).name
                for fed, _ in fed_batches(runner, parts[number]):
                    runner.infer({name: fed})
            finally:
                self._idle.append(runner)
            if done is not None:
                done(number)

        for _ in self._pool.map(one, range(len(parts))):
            pass

    def close(self) -> None:
        """Frees the runners; a second call does nothing."""
        self._pool.shutdown()
        self._close_runners()


def choices(threads: int | None, batch: int) -> list[Choice]:
    """What is tried: one runner on all cores, and one a core, with large and with small batches."""
    cores = threads or usable_threads()
    if cores < 2:
        return [Choice(1, threads, batch)]
    return [Choice(1, threads, batch), Choice(cores, 1, batch), Choice(cores, 1, 1)]


def fastest(
    engine: Engine,
    backend: Backend,
    config: BuildConfig,
    images: Sequence[Array],
    batch: int,
    *,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> tuple[Lanes, float]:
    """The choice that answers most samples a second here, and how many.

    Args:
        engine: The engine.
        backend: Its backend.
        config: Device and threads.
        images: Samples ``(1, ...)`` to try with.
        batch: Most samples of a run.
        clock: Monotonic clock in nanoseconds.

    Raises:
        EdgeResError: As the backend's ``load``.
    """
    best: tuple[Lanes, float] | None = None
    wanted = choices(config.threads, batch)
    for choice in wanted if config.device == "cpu" else wanted[:1]:
        lanes = Lanes(engine, backend, config, choice)
        try:
            rate = _rate(lanes, images, clock)
        except BaseException:
            lanes.close()
            raise
        if best is None or rate > best[1]:
            if best is not None:
                best[0].close()
            best = lanes, rate
        else:
            lanes.close()
    assert best is not None
    return best


def _rate(lanes: Lanes, images: Sequence[Array], clock: Callable[[], int]) -> float:
    """Samples a second, the best of several rounds."""
    import numpy as np

    size = lanes.choice.batch
    part = np.concatenate([images[i % len(images)] for i in range(size)])
    parts = [part] * max(lanes.choice.lanes, 32 // size)
    lanes.run(parts)
    best, begin = 0.0, clock()
    while best == 0.0 or clock() - begin < _TRIAL_SECONDS * 1e9:
        start = clock()
        lanes.run(parts)
        best = max(best, len(parts) * size / max(clock() - start, 1) * 1e9)
    return best
