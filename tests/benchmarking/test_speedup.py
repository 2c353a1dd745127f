"""The interval of the speed-up covers the true ratio, at three rounds as at twenty."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import t

from edgeres.benchmarking.latency import Latency
from edgeres.benchmarking.speedup import speedup, student_quantile

TRUE = 1.5


def _latency(medians: np.ndarray) -> Latency:
    p50 = float(np.median(medians))
    return Latency(
        p50, p50, p50, None, p50, p50, 1000, 1, 1.0, 1.0, 5, None, tuple(map(float, medians))
    )


@pytest.mark.parametrize("rounds", [3, 5, 10, 20])
@pytest.mark.parametrize("tail", [math.inf, 3.0])
def test_it_covers_the_true_ratio(rounds: int, tail: float) -> None:
    rng = np.random.default_rng(rounds)
    tries, covered = 1000, 0
    for _ in range(tries):
        # A slow round slows both engines; what is left differs from turn to turn.
        machine = np.exp(0.2 * rng.standard_normal(rounds))
        own = (
            rng.standard_normal((2, rounds))
            if math.isinf(tail)
            else rng.standard_t(tail, (2, rounds))
        )
        first, second = machine * np.exp(0.05 * own)
        found = speedup(_latency(TRUE * first), _latency(second))
        covered += found.low <= TRUE <= found.high
    assert covered >= 0.935 * tries


def test_few_rounds_give_a_wide_interval() -> None:
    noise = np.exp(0.05 * np.random.default_rng(1).standard_normal(20))
    few, many = (speedup(_latency(TRUE * noise[:n]), _latency(np.ones(n))) for n in (3, 20))
    assert few.high - few.low > 1.5 * (many.high - many.low)


def test_quantiles_are_students() -> None:
    for freedom in (1, 2, 3, 4, 9, 19, 40):
        for probability in (0.6, 0.95, 0.975, 0.999):
            found = student_quantile(probability, freedom)
            assert found == pytest.approx(t.ppf(probability, freedom), rel=1e-9)
