"""Are the answers of a timed engine real? Times alone do not tell a cheat or a breakdown.

Three checks in the spirit of MLPerf's audit tests: the answers depend on the input, the answers of
timed runs are those of untimed ones (TEST01), and an input that was never seen takes as long as one
that was (TEST04: no cached answers).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from edgeres.backends.base import Array, Runner

_TOLERANCE = 0.01  # of the largest answer; INT8 engines may round differently from run to run
_CHECK_EVERY = 16  # timed runs between two comparisons of answers
_FRESH_RUNS = 15
_FRESH_SLOWER = 1.5  # a cache answers many times faster; noise stays below this


class OutputWatch:
    """Compares an engine's answers while it is measured."""

    def __init__(
        self,
        runner: Runner,
        feeds: Sequence[Mapping[str, Array]],
        clock: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self._runner = runner
        self._feeds = feeds
        self._clock = clock
        self._reference: list[dict[str, Array]] = []
        self._runs = 0
        self._differ = 0

    def remember(self) -> None:
        """Takes the answer to each input, outside the measured runs, as the true one."""
        self._reference = [
            {name: array.copy() for name, array in self._runner.infer(feed).items()}
            for feed in self._feeds
        ]

    def saw(self, index: int, outputs: Mapping[str, Array]) -> None:
        """Compares the answer of a measured run with the remembered one, now and then."""
        self._runs += 1
        # Co-prime with most numbers of inputs, so that each input's turn comes.
        if self._reference and self._runs % (_CHECK_EVERY + 1) == 0:
            self._differ += not _close(self._reference[index], outputs)

    def audit(self) -> list[str]:
        """Runs the checks that are left; what speaks against the answers, in words."""
        doubts = []
        first = self._reference[0]
        if all(_equal(first, other) for other in self._reference[1:]):
            doubts.append("the answers do not depend on the input")
        if self._differ:
            doubts.append(
                f"{self._differ} answers of measured runs differ from the same run before"
            )
        repeat_ns, fresh_ns = self._seen_and_fresh()
        if fresh_ns > _FRESH_SLOWER * repeat_ns > 0:
            doubts.append(
                f"inputs never seen before take {fresh_ns / repeat_ns:.1f} times as long: "
                "answers are cached"
            )
        return doubts

    def _seen_and_fresh(self) -> tuple[float, float]:
        """Median nanoseconds of inputs that ran before, and the least of ones that never did.

        Load can slow any run, but cannot make all fresh inputs slower than half of the seen ones.
        """
        repeat_ns: list[int] = []
        fresh_ns: list[int] = []
        for number in range(_FRESH_RUNS):
            feed = self._feeds[number % len(self._feeds)]
            # Scaled a little, by another factor each time: images that no run has seen.
            factor = 0.9 + 0.005 * number
            scaled_feed: dict[str, Array] = {
                name: (array.astype(np.float64) * factor).astype(array.dtype)
                for name, array in feed.items()
            }
            for times, images in ((repeat_ns, feed), (fresh_ns, scaled_feed)):
                start = self._clock()
                self._runner.infer(images)
                times.append(self._clock() - start)
        return float(np.median(repeat_ns)), float(min(fresh_ns))


def _equal(one: Mapping[str, Array], other: Mapping[str, Array]) -> bool:
    return all(np.array_equal(one[name], other[name]) for name in one)


def _close(one: Mapping[str, Array], other: Mapping[str, Array]) -> bool:
    for name, exact in one.items():
        size = float(np.max(np.abs(exact), initial=0.0))
        if not np.allclose(exact, other[name], rtol=0.0, atol=_TOLERANCE * size, equal_nan=True):
            return False
    return True
