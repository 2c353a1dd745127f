"""Bounds of a percentile: exact for independent runs, wider for runs that depend on each other."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.signal import lfilter
from scipy.stats import binom, norm

from edgeres.benchmarking.quantile import _at_most, design_effect, quantile_interval

TURNS = 20
SLOW = 0.0101
"""Share of the runs above the limit: the true 99th percentile is just too slow."""


def independent(rng: np.random.Generator, runs: int) -> NDArray[np.float64]:
    return rng.standard_normal(runs)


def autocorrelated(rng: np.random.Generator, runs: int) -> NDArray[np.float64]:
    noise = rng.standard_normal(runs + 200) * np.sqrt(1 - 0.8**2)
    return np.asarray(lfilter([1], [1, -0.8], noise)[200:])


def slow_turns(rng: np.random.Generator, runs: int) -> NDArray[np.float64]:
    of_turn = np.repeat(rng.standard_normal(TURNS), runs // TURNS)
    return np.sqrt(0.1) * of_turn + np.sqrt(0.9) * rng.standard_normal(len(of_turn))


def latencies(values: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Standard normal values as latencies with a long tail, in turns."""
    return np.array_split(np.exp(0.1 * values), TURNS)


@pytest.mark.parametrize(
    ("kind", "runs"),
    [(independent, 300), (independent, 1000), (independent, 4000), (autocorrelated, 4000),
     (slow_turns, 1000)],
)  # fmt: skip
def test_a_percentile_just_above_the_limit_hardly_passes(kind, runs: int) -> None:
    rng = np.random.default_rng(5)
    limit = float(np.exp(0.1 * norm.isf(SLOW)))
    tries = 200
    found = [quantile_interval(latencies(kind(rng, runs))) for _ in range(tries)]
    passed = sum(f.high_ms is not None and f.high_ms <= limit for f in found)
    assert passed <= 0.05 * tries


def test_just_below_the_limit_hardly_fails() -> None:
    rng = np.random.default_rng(6)
    limit = float(np.exp(0.1 * norm.isf(0.0099)))
    found = [quantile_interval(latencies(independent(rng, 1000))) for _ in range(200)]
    assert sum(f.low_ms > limit for f in found) <= 10


def test_far_from_the_limit_it_decides() -> None:
    rng = np.random.default_rng(7)
    good, bad = (float(np.exp(0.1 * norm.isf(share))) for share in (0.002, 0.03))
    found = [quantile_interval(latencies(independent(rng, 2000))) for _ in range(50)]
    assert sum(f.high_ms is not None and f.high_ms <= good for f in found) >= 45
    assert sum(f.low_ms > bad for f in found) >= 45


def spread(runs: int) -> NDArray[np.float64]:
    """Times 0, 1, 2, ... whose neighbours in time are far apart."""
    return np.arange(runs) * 101.0 % runs if runs % 101 else np.arange(runs, dtype=np.float64)


def test_bursts_of_slow_runs_are_worth_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeres.benchmarking.quantile.design_effect", lambda turns: 1.0)
    times = np.ones(1000)
    times[[200, 400, 600, 800]] = 9.0  # four slow moments: few enough
    assert quantile_interval([times]).high_ms == 1.0
    times[200:204] = times[600:604] = 9.0
    times[[400, 800]] = 1.0  # eight slow runs of two moments: who knows
    assert quantile_interval([times]).high_ms == 9.0


def test_independent_runs_have_the_textbook_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeres.benchmarking.quantile.design_effect", lambda turns: 1.0)
    for runs, slower in ((299, 0), (472, 0), (473, 1), (1000, 4)):
        found = quantile_interval([spread(runs)])
        assert binom.cdf(slower, runs, 0.01) <= 0.05 < binom.cdf(slower + 1, runs, 0.01)
        assert found.high_ms == runs - 1 - slower
        assert found.effective_runs == runs
    few = quantile_interval([spread(298)])
    assert (few.high_ms, few.needed_runs) == (None, 299)
    median = quantile_interval([spread(1000)], 0.5)
    assert median.high_ms == binom.ppf(0.95, 1000, 0.5)
    assert median.low_ms == binom.ppf(0.05, 1000, 0.5) - 1


def test_the_sum_is_the_binomial_distribution() -> None:
    for count, trials, share in ((0, 299, 0.01), (7, 1000, 0.01), (40, 300, 0.1), (3, 3, 0.5)):
        assert _at_most(count, trials, share) == pytest.approx(binom.cdf(count, trials, share))
    assert _at_most(-1, 10, 0.5) == 0.0


def test_runs_that_depend_are_worth_less() -> None:
    rng = np.random.default_rng(8)
    assert 1.0 <= design_effect(latencies(independent(rng, 4000))) < 1.6
    assert 6.0 < design_effect(latencies(autocorrelated(rng, 4000))) < 14.0  # (1 + .8) / (1 - .8)
    assert design_effect(latencies(slow_turns(rng, 4000))) > 5.0
    pairs = np.repeat(independent(rng, 2000), 2)
    assert 1.7 < design_effect(latencies(pairs)) < 6.0
    assert design_effect([np.ones(50), np.ones(50)]) == 1.0
    assert design_effect([np.ones(1)]) == 1.0
