"""Bounds of how one metric of two models differs: paired, honest about what was not seen."""

from __future__ import annotations

import numpy as np
import pytest

from edgeres.errors import DataError, ModelError, UsageError
from edgeres.evaluation.statistics import drop_lower, drop_upper, wilson_interval
from edgeres.tasks.difference import difference
from edgeres.tasks.mean_bound import mean_upper, quantile
from edgeres.tasks.metric import Metric

RIGHT = Metric("top1", "top-1", "pp", True, 0.5, scores=lambda r: r["x"], factor=100.0)
ERROR = Metric("mae", "mean absolute error", "years", False, 0.5, scores=lambda r: r["x"])
TOTAL = Metric(
    "mean", "mean", "pp", True, 0.5, value=lambda r: lambda c: float(c @ r["x"] / c.sum())
)
NEAR = Metric(
    "sqnr",
    "SQNR",
    "dB",
    True,
    20.0,
    closeness=lambda a, b: (np.square(a["x"]), np.square(a["x"] - b["x"])),
)


def rows(values):
    return {"x": np.asarray(values, dtype=np.float64)}


def answers(lost: int, gained: int, samples: int):
    before, after = np.ones(samples), np.ones(samples)
    after[:lost] = 0
    before[lost : lost + gained] = 0
    return rows(before), rows(after)


@pytest.mark.parametrize(
    ("lost", "gained", "samples"), [(0, 0, 500), (3, 1, 500), (40, 10, 10_000), (0, 7, 300)]
)
def test_right_and_wrong_answers_have_tangos_bound_and_wilsons(lost, gained, samples) -> None:
    d = difference(RIGHT, *answers(lost, gained, samples))
    assert d.upper == pytest.approx(100 * drop_upper(lost, gained, samples), abs=1e-9)
    assert d.lower == pytest.approx(100 * drop_lower(lost, gained, samples), abs=1e-9)
    interval = wilson_interval(samples - lost, samples, 0.90)
    assert (d.engine_lower, d.engine_upper) == pytest.approx([100 * x for x in interval], abs=1e-9)
    assert d.differing == lost + gained


def test_the_bound_of_a_skewed_mean_lies_further_on_the_long_side() -> None:
    values = np.random.default_rng(0).exponential(1.0, 400)
    upper = mean_upper(values, 0.0, 0.95, 400) - values.mean()
    lower = values.mean() + mean_upper(-values, 0.0, 0.95, 400)
    assert upper > 1.645 * values.std() / 20 > lower > 0


def test_a_mean_of_equal_values_has_no_bound_but_for_what_was_not_seen() -> None:
    assert mean_upper(np.full(50, 3.0), 3.0, 0.95, 50) == 3.0
    assert mean_upper(np.full(50, 3.0), 4.0, 0.95, 50) == pytest.approx(3 + 1.6449**2 / 52.7055)


@pytest.mark.parametrize("metric", [RIGHT, TOTAL])
def test_500_samples_that_are_all_equal_prove_nothing_and_10_000_do(metric) -> None:
    factor = 100 / metric.factor  # the total is said in percent already
    few, many = (rows((np.arange(n) % 10 > 0) * factor) for n in (500, 10_000))
    d = difference(metric, few, few, resamples=200)
    assert d.drop == 0.0
    assert d.lower < -0.5 < 0.5 < d.upper < 0.8
    assert 0 < difference(metric, many, many, resamples=200).upper < 0.05


def test_errors_that_are_all_equal_are_bounded_by_the_largest_error_seen() -> None:
    errors = rows(np.linspace(0, 40, 500))
    d = difference(ERROR, errors, errors)
    assert d.upper == pytest.approx(40 * 1.6449**2 / (500 + 1.6449**2), rel=1e-3)
    assert d.lower == -d.upper


def test_one_sample_that_differs_by_nothing_much_does_not_prove_the_others() -> None:
    errors, other = np.linspace(0, 40, 500), np.linspace(0, 40, 500)
    other[7] += 1e-9
    assert difference(ERROR, rows(errors), rows(other)).upper > 0.2


def test_less_is_better_turns_the_drop_round() -> None:
    rng = np.random.default_rng(1)
    before = rng.exponential(3, 2000)
    d = difference(ERROR, rows(before), rows(before + rng.normal(0.2, 0.1, 2000)))
    assert d.drop == pytest.approx(0.2, abs=0.01)
    assert d.lower < d.drop < d.upper < 0.21
    assert d.engine == pytest.approx(d.fp32 + d.drop)


def test_the_whole_set_figure_of_a_mean_agrees_with_the_bound_of_its_scores() -> None:
    rng = np.random.default_rng(2)
    before = rng.exponential(3, 1500)
    after = before - rng.gamma(0.5, 0.4, 1500)
    whole = difference(TOTAL, rows(before), rows(after))
    mean = difference(RIGHT, rows(before), rows(after))
    for name in ("drop", "lower", "upper", "engine_lower", "engine_upper", "spread"):
        assert 100 * getattr(whole, name) == pytest.approx(getattr(mean, name), rel=0.03), name
    assert difference(TOTAL, rows(before), rows(after)) == whole


@pytest.mark.parametrize("metric", [RIGHT, TOTAL, NEAR])
def test_repeated_samples_do_not_make_the_bound_narrower(metric) -> None:
    rng = np.random.default_rng(3)
    before = rng.exponential(3, 400)
    after = before + rng.normal(0.02, 0.2, 400)
    once = difference(metric, rows(before), rows(after))
    four = rows(np.tile(before, 4)), rows(np.tile(after, 4))
    groups = np.tile(np.arange(400), 4)
    counted = difference(metric, *four, groups=groups)
    assert counted.effective == pytest.approx(400)
    assert counted.upper == pytest.approx(once.upper, rel=0.05)
    unknown = difference(metric, *four)
    assert unknown.upper - unknown.drop < 0.6 * (once.upper - once.drop)


@pytest.mark.parametrize("metric", [RIGHT, ERROR, TOTAL, NEAR])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_outputs_that_are_no_numbers_are_counted_and_never_help(metric, bad) -> None:
    before = np.linspace(1, 5, 300)
    after = before.copy()
    after[[4, 90]] = bad
    d = difference(metric, rows(before), rows(after), resamples=200)
    assert d.broken == 2
    assert np.isfinite([d.engine, d.drop, d.lower, d.upper]).all()
    if metric in (RIGHT, ERROR):
        assert d.drop > 0
    everything = difference(metric, rows(before), rows(np.full(300, bad)), resamples=200)
    assert everything.broken == 300


def test_equal_outputs_are_as_near_as_one_unseen_wrong_one_allows() -> None:
    rng = np.random.default_rng(4)
    few, many = rows(rng.normal(size=30)), rows(rng.normal(size=10_000))
    assert -difference(NEAR, few, few).upper < 20.0
    d = difference(NEAR, many, many)
    assert d.engine == 200.0
    assert 20.0 < -d.upper < 40.0


def test_sqnr_is_bounded_on_both_sides() -> None:
    rng = np.random.default_rng(5)
    before = rng.normal(size=2000)
    d = difference(NEAR, rows(before), rows(before + rng.normal(0, 0.1, 2000)))
    assert d.engine == pytest.approx(20.0, abs=0.5)
    assert d.fp32 is None
    assert d.drop == -d.engine
    assert d.engine_lower == -d.upper < d.engine < -d.lower == d.engine_upper
    assert d.engine_upper - d.engine_lower < 1.0


def test_what_makes_no_sense_is_told() -> None:
    good = rows(np.linspace(1, 5, 30))
    with pytest.raises(DataError, match=r"the same samples of both models, got \[20, 30\]"):
        difference(ERROR, good, rows(np.ones(20)))
    with pytest.raises(DataError, match="got none"):
        difference(ERROR, {}, {})
    with pytest.raises(ModelError, match="1 of 30 scores of the baseline are NaN"):
        difference(ERROR, rows([np.nan, *range(29)]), good)
    with pytest.raises(ModelError, match="outputs are all zero"):
        difference(NEAR, rows(np.zeros(30)), good)
    with pytest.raises(UsageError, match="one of scores, value and closeness"):
        difference(Metric("x", "x", "", True, 1.0), good, good)
    with pytest.raises(UsageError, match="confidence"):
        difference(ERROR, good, good, confidence=1.5)
    lacking = Metric("x", "share", "", True, 1.0, value=lambda r: lambda c: float("nan"))
    with pytest.raises(DataError, match="share: 30 samples lack what it needs"):
        difference(lacking, good, good)
    rare = Metric("x", "s", "", True, 1.0, value=lambda r: lambda c: 1.0 if c[0] else float("nan"))
    with pytest.raises(DataError, match=r"of 200 sets drawn from the 30 samples lack"):
        difference(rare, good, good, resamples=200)


@pytest.mark.parametrize("samples", [30, 500, 2000, 9999])
def test_equal_values_are_bounded_for_every_largest_value(samples: int) -> None:
    values = np.full(samples, 0.3)
    for largest in 0.3 + np.random.default_rng(samples).uniform(1e-3, 1e3, 200):
        z2 = quantile(0.95) ** 2
        wanted = z2 / (samples + z2) * (largest - 0.3)
        assert mean_upper(values, largest, 0.95, samples) - 0.3 == pytest.approx(wanted, rel=1e-5)
