"""Statistics against published numbers, exact coverage, and simulated decisions."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from edgeres.errors import UsageError
from edgeres.evaluation.statistics import (
    drop_lower,
    drop_upper,
    holm,
    mcnemar_exact,
    samples_to_decide,
    wilson_interval,
)

upper = cache(drop_upper)


def exact_coverage(samples: int, discordant: float, drop: float) -> float:
    """Probability that the 95 % upper bound is at least the true drop: a sum over all counts."""
    lose, gain = (discordant + drop) / 2, (discordant - drop) / 2
    most = int(samples * discordant + 8 * math.sqrt(samples * discordant) + 12)
    lost = np.arange(most)
    covered = 0.0
    for gained in range(most):
        weights = binom.pmf(gained, samples, gain) * binom.pmf(
            lost, samples - gained, lose / (1 - gain)
        )
        # The bound grows with the losses: from the first that covers on, all do.
        low, high = 0, most
        while low < high:
            middle = (low + high) // 2
            if upper(middle, gained, samples) >= drop - 1e-12:
                high = middle
            else:
                low = middle + 1
        covered += float(weights[low:].sum())
    return covered


def simulate(samples: int, lose: float, gain: float, trials: int = 10_000) -> list[tuple[int, int]]:
    rng = np.random.default_rng(7)
    counts = rng.multinomial(samples, [lose, gain, 1 - lose - gain], size=trials)
    return [(int(lost), int(gained)) for lost, gained, _ in counts]


def test_bounds_match_published_intervals() -> None:
    # R package PropCIs, scoreci.mp on 48 and 41 of 549 pairs, 90 % two-sided.
    assert 100 * drop_lower(48, 41, 549, 0.95) == pytest.approx(-1.57, abs=0.005)
    assert 100 * drop_upper(48, 41, 549, 0.95) == pytest.approx(4.14, abs=0.005)
    # Airway reactivity data of Bentur et al. as in Fagerland et al. (2014), 95 % two-sided.
    assert drop_lower(1, 7, 21, 0.975) == pytest.approx(-0.517, abs=0.0005)
    assert drop_upper(1, 7, 21, 0.975) == pytest.approx(-0.026, abs=0.0005)


@given(st.integers(0, 60), st.integers(0, 60), st.integers(120, 5000))
def test_bound_solves_the_quartic(lost: int, gained: int, samples: int) -> None:
    # Closed form of the same interval: Yang, Sun and Hardin, Statistics in Medicine 32 (2013).
    d, s, n = lost - gained, lost + gained, samples
    g = 1.6448536269514722**2
    coefficients = [
        n**2 * (n / g + 1) ** 2,
        -n * d * (n / g + 1) * (4 * n / g + 1),
        2 * n * d**2 * (3 * n / g + 2) / g - n**2 * (s / g + 1),
        n * d * (2 * s / g + 1) - d**3 * (4 * n / g + 1) / g,
        d**2 * (d**2 / g - s) / g,
    ]
    bound = drop_upper(lost, gained, samples)
    terms = [c * bound ** (4 - i) for i, c in enumerate(coefficients)]
    assert abs(sum(terms)) <= 1e-6 * max(map(abs, terms)) + 1e-9


@pytest.mark.parametrize("discordant", [0.01, 0.02, 0.04])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_upper_bound_covers_a_thousand_samples(discordant: float, share: float) -> None:
    assert 0.948 <= exact_coverage(1000, discordant, share * discordant) <= 0.972


@pytest.mark.parametrize(
    ("discordant", "share"), [(0.01, 0.0), (0.01, 1.0), (0.02, 0.5), (0.04, 0.25)]
)
def test_upper_bound_covers_ten_thousand_samples(discordant: float, share: float) -> None:
    assert 0.949 <= exact_coverage(10_000, discordant, share * discordant) <= 0.956


@pytest.mark.parametrize(("discordant", "worst"), [(0.001, 0.98), (0.002, 0.96), (0.005, 0.95)])
def test_rare_discordance_never_flatters_a_loss(discordant: float, worst: float) -> None:
    # One to five discordant pairs: the bound is wide, and covers a true loss at least as promised.
    for share in (0.0, 0.5, 1.0):
        assert exact_coverage(1000, discordant, share * discordant) >= worst - 0.001


@pytest.mark.parametrize(("samples", "low", "high"), [(10_000, 0.94, 0.96), (1_000, 0.935, 0.97)])
@pytest.mark.parametrize("discordant", [0.01, 0.04])
def test_simulated_coverage(samples: int, low: float, high: float, discordant: float) -> None:
    drop = discordant / 4
    pairs = simulate(samples, (discordant + drop) / 2, (discordant - drop) / 2)
    covered = np.mean([upper(lost, gained, samples) >= drop for lost, gained in pairs])
    assert low <= covered <= high


def test_a_point_lost_is_failed_and_equals_pass() -> None:
    worse = simulate(10_000, 0.015, 0.005, trials=1000)
    equal = simulate(10_000, 0.01, 0.01, trials=1000)
    assert np.mean([drop_lower(*pair, 10_000) > 0.005 for pair in worse]) > 0.9
    assert np.mean([drop_upper(*pair, 10_000) <= 0.005 for pair in equal]) > 0.9


def test_promised_number_of_samples_decides() -> None:
    needed = samples_to_decide(10, 10, 1000, 0.005, power=0.9)
    assert needed is not None
    pairs = simulate(needed, 0.01, 0.01, trials=2000)
    decided = np.mean([upper(lost, gained, needed) <= 0.005 for lost, gained in pairs])
    assert 0.87 <= decided <= 0.93
    failing = samples_to_decide(20, 8, 1000, 0.005, power=0.9)
    assert failing is not None
    pairs = simulate(failing, 0.020, 0.008, trials=2000)
    decided = np.mean([drop_lower(lost, gained, failing) > 0.005 for lost, gained in pairs])
    assert 0.87 <= decided <= 0.93


def test_no_number_of_samples_decides_a_drop_at_the_limit() -> None:
    assert samples_to_decide(5, 0, 1000, 0.005) is None


def test_no_discordance_still_needs_samples() -> None:
    assert drop_upper(0, 0, 100) > 0.02
    needed = samples_to_decide(0, 0, 100, 0.005)
    assert needed is not None
    assert drop_upper(0, 0, needed) <= 0.005 < drop_upper(0, 0, needed - 10)


@given(st.integers(0, 50), st.integers(0, 50), st.integers(100, 2000), st.floats(0.5, 0.999))
def test_bounds_enclose_the_drop(lost: int, gained: int, samples: int, confidence: float) -> None:
    drop = (lost - gained) / samples
    low = drop_lower(lost, gained, samples, confidence)
    high = drop_upper(lost, gained, samples, confidence)
    assert -1 <= low <= drop + 1e-12
    assert drop - 1e-12 <= high <= 1


def test_bounds_stay_in_range_when_all_is_lost() -> None:
    assert drop_upper(50, 0, 50) == pytest.approx(1.0)
    z2 = 1.6448536269514722**2  # (1 - drop) / (1 + drop) = z^2 / n solves it by hand
    assert drop_lower(50, 0, 50) == pytest.approx((50 - z2) / (50 + z2))


@given(st.integers(0, 200), st.integers(1, 200), st.floats(0.5, 0.999))
def test_wilson_agrees_with_scipy(successes: int, trials: int, confidence: float) -> None:
    successes = min(successes, trials)
    expected = binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    low, high = wilson_interval(successes, trials, confidence)
    assert low == pytest.approx(expected.low, abs=1e-9)
    assert high == pytest.approx(expected.high, abs=1e-9)


def test_mcnemar_is_a_fair_coin() -> None:
    assert mcnemar_exact(0, 0) == 1.0
    assert mcnemar_exact(5, 5) == pytest.approx(1.0)
    assert mcnemar_exact(6, 0) == pytest.approx(2 / 64)
    assert mcnemar_exact(6, 0, "greater") == pytest.approx(1 / 64)
    assert mcnemar_exact(0, 6, "greater") == pytest.approx(1.0)


@given(st.integers(0, 400), st.integers(0, 400), st.sampled_from(["two-sided", "greater"]))
def test_mcnemar_agrees_with_scipy(lost: int, gained: int, alternative: str) -> None:
    if lost + gained == 0:
        return
    expected = binomtest(lost, lost + gained, 0.5, alternative=alternative).pvalue
    assert mcnemar_exact(lost, gained, alternative) == pytest.approx(expected, rel=1e-9)


def test_mcnemar_of_many_pairs_is_quick_and_right() -> None:
    expected = binomtest(25_300, 50_000, 0.5).pvalue
    assert mcnemar_exact(25_300, 24_700) == pytest.approx(expected, rel=1e-7)


def test_holm_adjusts_in_steps() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


@pytest.mark.parametrize(
    "call",
    [
        lambda: wilson_interval(3, 2),
        lambda: wilson_interval(0, 0),
        lambda: drop_upper(-1, 0, 10),
        lambda: drop_upper(6, 5, 10),
        lambda: drop_upper(0, 0, 0),
        lambda: drop_upper(1, 1, 10, 1.0),
        lambda: drop_upper(1, 1, 10, 0.4),
        lambda: drop_upper(1, 1, 10, math.nan),
        lambda: mcnemar_exact(-1, 2),
    ],
)
def test_senseless_counts_are_refused(call: object) -> None:
    with pytest.raises(UsageError, match="expected"):
        call()
