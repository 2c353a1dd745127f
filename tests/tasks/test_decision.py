"""Verdicts on any metric: proof or doubt, and the number of samples that would decide."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from edgeres.tasks.decision import Gate, floor_check, metric_check, metric_checks
from edgeres.tasks.difference import difference
from edgeres.tasks.metric import Metric

MAE = Metric("mae", "mean absolute error", "years", False, 0.5, scores=lambda r: r["x"])
TOP1 = Metric("top1", "top-1", "pp", True, 0.5, scores=lambda r: r["x"], factor=100.0)
SQNR = Metric(
    "sqnr_db",
    "SQNR",
    "dB",
    True,
    20.0,
    closeness=lambda a, b: (np.square(a["x"]), np.square(a["x"] - b["x"])),
)


def pair(samples: int, shift: float, noise: float = 0.5, seed: int = 0):
    rng = np.random.default_rng(seed)
    before = rng.exponential(3, samples)
    return {"x": before}, {"x": before + rng.normal(shift, noise, samples)}


def test_a_proven_loss_within_the_limit_passes_and_is_said_with_its_unit() -> None:
    check = metric_check(MAE, difference(MAE, *pair(4000, 0.12)))
    assert check.outcome == "pass"
    assert check.name == "mae"
    assert check.reason.startswith("mean absolute error +0.1")
    assert "years, 95 % upper bound +0.1" in check.reason
    assert check.reason.endswith("within 0.5 years.")
    assert check.value == difference(MAE, *pair(4000, 0.12)).upper <= check.limit == 0.5


def test_a_proven_loss_above_the_limit_fails() -> None:
    check = metric_check(MAE, difference(MAE, *pair(4000, 0.12)), 0.05)
    assert check.outcome == "fail"
    assert "lower bound +0.1" in check.reason
    assert check.reason.endswith("above 0.05 years.")


def test_doubt_is_told_with_a_number_of_samples_that_decides() -> None:
    d = difference(MAE, *pair(200, 0.12, noise=2.0, seed=3), confidence=0.95)
    check = metric_check(MAE, d, 0.2)
    assert check.outcome == "inconclusive"
    assert "could lie between" in check.reason
    needed = check.samples_to_decide
    assert needed is not None
    assert needed > 200
    assert f"About {needed} different samples would." in check.reason
    outcomes = []
    for seed in range(60):  # the observed drop and spread, for true
        shift, noise = d.drop, d.spread
        d2 = difference(MAE, *pair(needed, shift, noise, seed + 10))
        outcomes.append(metric_check(MAE, d2, 0.2).outcome != "inconclusive")
    assert 0.8 <= np.mean(outcomes) <= 0.99


def test_all_equal_needs_as_many_as_make_the_unseen_small_enough() -> None:
    same = {"x": np.ones(500)}
    check = metric_check(TOP1, difference(TOP1, same, same), 0.5)
    assert check.outcome == "inconclusive"
    assert check.samples_to_decide is not None
    assert 500 < check.samples_to_decide < 600
    more = {"x": np.ones(check.samples_to_decide)}
    assert metric_check(TOP1, difference(TOP1, more, more), 0.5).outcome == "pass"


def test_a_drop_that_is_the_limit_is_decided_by_no_number() -> None:
    before, after = np.ones(400), np.ones(400)
    after[:4] = 0
    check = metric_check(TOP1, difference(TOP1, {"x": before}, {"x": after}), 1.0)
    assert check.outcome == "inconclusive"
    assert check.samples_to_decide is None
    assert "No number of samples would" in check.reason
    assert check.reason.startswith("top-1 drop +1.00 pp could lie between")


def test_an_engine_whose_outputs_are_no_numbers_fails_whatever_its_figure() -> None:
    before, after = pair(4000, -1.0)
    after["x"][3] = np.nan
    d = difference(MAE, before, after)
    for check in (metric_check(MAE, d, 5.0), floor_check(MAE, d, 50.0)):
        assert check.outcome == "fail"
        assert "1 of 4000 outputs are NaN or Inf: the engine is broken" in check.reason


def test_repeated_samples_are_told() -> None:
    before, after = pair(100, 0.1)
    four = [{"x": np.tile(r["x"], 4)} for r in (before, after)]
    d = difference(MAE, *four, groups=np.tile(np.arange(100), 4))
    assert "the 400 samples are worth 100" in metric_check(MAE, d).reason


@pytest.mark.parametrize(
    ("noise", "outcome", "words"),
    [
        (0.03, "pass", "lower bound"),
        (0.5, "fail", "below 20 dB."),
        (0.3, "inconclusive", "do not tell it from 20 dB."),
    ],
)
def test_closeness_is_judged_by_its_own_figure(noise, outcome, words) -> None:
    samples = 60 if outcome == "inconclusive" else 3000
    rng = np.random.default_rng(0)
    before = 3 * rng.normal(size=samples)
    after = before + rng.normal(0, noise, samples)
    check = metric_check(SQNR, difference(SQNR, {"x": before}, {"x": after}))
    assert (check.outcome, check.limit) == (outcome, 20.0)
    assert check.reason.startswith("SQNR ")
    assert words in check.reason


@pytest.mark.parametrize(
    ("metric", "good", "bad", "near"), [(MAE, 4.0, 2.0, 3.01), (TOP1, 80.0, 95.0, 90.1)]
)
def test_floors_judge_the_figure_itself(metric, good, bad, near) -> None:
    rng = np.random.default_rng(2)
    values = {"x": rng.exponential(3, 2000) if metric is MAE else (np.arange(2000) % 10 > 0) * 1.0}
    d = difference(metric, values, values)
    outcomes = [floor_check(metric, d, floor).outcome for floor in (good, bad, near)]
    assert outcomes == ["pass", "fail", "inconclusive"]
    doubt = floor_check(metric, d, near)
    assert doubt.samples_to_decide is None or doubt.samples_to_decide > 2000
    assert ("at most" if metric is MAE else "%, 95 % lower bound") in floor_check(
        metric, d, good
    ).reason


def test_of_many_metrics_one_that_looks_bad_by_chance_does_not_fail() -> None:
    def gates(shift: float) -> list[Gate]:
        made = []
        for index in range(10):
            rows = pair(400, shift if index == 0 else 0.0, seed=index)
            run = partial(difference, MAE, *rows)
            made.append(Gate(MAE, run(), 0.25, run))
        return made

    slight, clear = 0.29 + 0.02, 0.6
    alone = gates(slight)[:1]
    assert metric_checks(alone)[0].outcome == "fail"
    among = metric_checks(gates(slight))[0]
    assert among.outcome == "inconclusive"
    assert "Of 10 metrics one may look so by chance" in among.reason
    outcomes = [check.outcome for check in metric_checks(gates(clear))]
    assert outcomes == ["fail", *["pass"] * 9]
