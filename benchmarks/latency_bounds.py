"""How often the bounds of a p99 and of a speed-up are right: simulations with known answers.

For the p99 the limit lies where 1.01 % of all runs are slower, so the true p99 is just above it and
a pass is wrong. Runs are independent, or depend on each other in one of several ways. For the
speed-up the true ratio is known, and rounds are disturbed for both engines and for each alone. No
model and no data are needed.

Two more tables look for a cheaper way with bursts of slow runs. A measurement without a single slow
run looks the same whatever the bursts, so whoever passes it passes wrongly as often as it comes:
that is a floor under every method that takes the same runs. The other method is blocks: the slowest
run of each block of ten counts as one of independent runs, which holds for every burst within a
block and needs no estimate of the dependence.

    python benchmarks/latency_bounds.py
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter
from scipy.stats import norm

from edgeres.benchmarking.latency import Latency
from edgeres.benchmarking.quantile import quantile_interval
from edgeres.benchmarking.speedup import speedup

TRIES = 300
TURNS = 20
SLOW = 0.0101
RATIO = 1.5
BLOCK = 10
BURST_SIZES = (1000, 2000, 3000, 4000)
Times = Callable[[np.random.Generator, int], NDArray[np.float64]]


def autocorrelated(share: float) -> Times:
    """First-order autoregression around a standard normal."""

    def draw(rng: np.random.Generator, runs: int) -> NDArray[np.float64]:
        noise = rng.standard_normal(runs + 500) * np.sqrt(1 - share**2)
        return np.asarray(lfilter([1], [1, -share], noise)[500:])

    return draw


def slow_turns(share: float) -> Times:
    """A share of the variance belongs to the turn."""

    def draw(rng: np.random.Generator, runs: int) -> NDArray[np.float64]:
        turn = np.repeat(rng.standard_normal(TURNS), runs // TURNS)
        own = rng.standard_normal(len(turn))
        times: NDArray[np.float64] = np.sqrt(share) * turn + np.sqrt(1 - share) * own
        return times

    return draw


def bursts(length: int, share: float = SLOW) -> Times:
    """Slow runs come so many in a row; all others are far below the limit."""

    def draw(rng: np.random.Generator, runs: int) -> NDArray[np.float64]:
        begins = rng.random(runs + length) < 1 - (1 - share) ** (1 / length)
        slow = np.convolve(begins, np.ones(length))[length : runs + length] > 0
        return np.where(slow, 10.0, 0.1 * rng.standard_normal(runs))

    return draw


KINDS: dict[str, tuple[Times, float]] = {
    "independent": (lambda rng, runs: rng.standard_normal(runs), float(norm.isf(SLOW))),
    "AR(1), 0.5": (autocorrelated(0.5), float(norm.isf(SLOW))),
    "AR(1), 0.8": (autocorrelated(0.8), float(norm.isf(SLOW))),
    "slow turns, 5 %": (slow_turns(0.05), float(norm.isf(SLOW))),
    "slow turns, 20 %": (slow_turns(0.2), float(norm.isf(SLOW))),
    "bursts of 3": (bursts(3), 5.0),
    "bursts of 5": (bursts(5), 5.0),
    "bursts of 10": (bursts(10), 5.0),
}


def wrong_passes(draw: Times, limit: float, runs: int) -> tuple[float, float]:
    """Share of measurements that pass though they should not, and the median design effect."""
    rng = np.random.default_rng(runs)
    passed, effects = 0, []
    for _ in range(TRIES):
        found = quantile_interval(np.array_split(draw(rng, runs), TURNS))
        passed += found.high_ms is not None and found.high_ms <= limit
        effects.append(runs / found.effective_runs)
    return passed / TRIES, float(np.median(effects))


def floor(draw: Times, limit: float, runs: int) -> float:
    """Share of measurements without a slow run, which every method takes for fast ones."""
    rng = np.random.default_rng(runs)
    return sum(bool((draw(rng, runs) <= limit).all()) for _ in range(TRIES)) / TRIES


def blocks_pass(draw: Times, limit: float, runs: int) -> float:
    """Share of measurements that pass where each block of ten counts as one run, its slowest."""
    rng = np.random.default_rng(runs)
    passed = 0
    for _ in range(TRIES):
        slowest = draw(rng, runs)[: runs - runs % BLOCK].reshape(-1, BLOCK).max(axis=1)
        found = quantile_interval([rng.permutation(slowest)])  # in no order, as if independent
        passed += found.high_ms is not None and found.high_ms <= limit
    return passed / TRIES


def right_passes(draw: Times, limit: float, runs: int) -> float:
    """Share of measurements that pass by the bound in use."""
    return wrong_passes(draw, limit, runs)[0]


def coverage(rounds: int, long_tail: bool) -> float:
    """Share of the 95 % intervals of the speed-up that hold the true ratio."""
    rng = np.random.default_rng(rounds)
    covered = 0
    for _ in range(10 * TRIES):
        machine = np.exp(0.2 * rng.standard_normal(rounds))
        size = (2, rounds)
        own = rng.standard_t(3, size) if long_tail else rng.standard_normal(size)
        first, second = machine * np.exp(0.05 * own)
        found = speedup(_latency(RATIO * first), _latency(second))
        covered += found.low <= RATIO <= found.high
    return covered / (10 * TRIES)


def _latency(medians: NDArray[np.float64]) -> Latency:
    p50 = float(np.median(medians))
    turns = tuple(map(float, medians))
    return Latency(p50, p50, p50, None, p50, p50, 1000, 1, 1.0, 1.0, 5, None, turns)


def main() -> None:
    """Prints both tables."""
    print(f"p99 just above the limit: wrong passes in % of {TRIES} (median design effect)")
    sizes = (300, 1000, 2000, 4000)
    print(f"{'runs':18}" + "".join(f"{runs:>14,}" for runs in sizes))
    for name, (draw, limit) in KINDS.items():
        cells = [wrong_passes(draw, limit, runs) for runs in sizes]
        print(
            f"{name:18}" + "".join(f"{100 * share:7.1f} ({effect:4.1f})" for share, effect in cells)
        )
    for title, share in (("1.01 % slow, wrong passes", SLOW), ("0.1 % slow, right passes", 0.001)):
        print(f"\nbursts: {title} in % (in use / blocks of {BLOCK} / no slow run at all)")
        print(f"{'runs':18}" + "".join(f"{runs:>22,}" for runs in BURST_SIZES))
        for length in (1, 3, 10):
            draw, cells_of = bursts(length, share), (right_passes, blocks_pass, floor)
            rows = [[100 * f(draw, 5.0, runs) for f in cells_of] for runs in BURST_SIZES]
            told = "".join(f"{a:8.1f} /{b:5.1f} /{c:5.1f}" for a, b, c in rows)
            print(f"{f'bursts of {length}':18}" + told)
    print(f"\nspeed-up: coverage of the 95 % interval in % of {10 * TRIES}")
    rounds = (3, 5, 9, 10, 20)
    print(f"{'rounds':18}" + "".join(f"{count:>8}" for count in rounds))
    for name, long_tail in (("normal noise", False), ("Student's t, 3", True)):
        print(f"{name:18}" + "".join(f"{100 * coverage(n, long_tail):8.1f}" for n in rounds))


if __name__ == "__main__":
    main()
