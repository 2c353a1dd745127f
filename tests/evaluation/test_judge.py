"""Engines of any task against their baselines."""

from __future__ import annotations

import json

import numpy as np
import pytest

from edgeres.errors import DataError, ModelError, UsageError
from edgeres.evaluation.judge import judge
from edgeres.evaluation.task_baseline import check_answers
from edgeres.recipe.gates import Limits
from edgeres.tasks import open_task
from edgeres.tasks.answers import Answers

RNG = np.random.default_rng(0)
TARGET = RNG.standard_normal(2000)
EXACT = (TARGET + 0.3 * RNG.standard_normal(2000)).astype(np.float32)[:, None]
TASK = open_task("regression", {"unit": "years"})


def answered(values: np.ndarray, **about: str) -> Answers:
    rows = dict(TASK.rows({"y": values}, {"": TARGET[: len(values)]}))
    return Answers({**rows, "output:y": values.astype(np.float32)}, **about)


def test_equal_engines_pass_and_their_outputs_are_equal() -> None:
    found = judge(TASK, answered(EXACT), answered(EXACT), Limits(max_drop=0.05))
    (check,) = found.checks
    assert check.outcome == "pass"
    assert found.metrics["mae"].drop == 0
    assert found.outputs["y"].sqnr_db is None
    assert found.outputs["y"].max_deviation == 0
    json.dumps(found.to_dict(), allow_nan=False)


def test_a_worse_engine_fails_and_a_small_set_cannot_tell() -> None:
    noise = 0.25 * np.random.default_rng(1).standard_normal(EXACT.shape)
    worse = (EXACT + noise).astype(np.float32)
    found = judge(TASK, answered(EXACT), answered(worse), Limits(max_drop=0.02))
    assert found.checks[0].outcome == "fail"
    assert "years" in found.checks[0].reason
    few = judge(TASK, answered(EXACT[:30]), answered(worse[:30]), Limits(max_drop=0.06))
    assert few.checks[0].outcome == "inconclusive"
    assert (few.checks[0].samples_to_decide or 0) > 30


def test_broken_and_constant_engines_fail_whatever_their_figures() -> None:
    holes = EXACT.copy()
    holes[3] = np.nan
    found = judge(TASK, answered(EXACT), answered(holes), Limits(max_drop=100.0))
    assert found.broken == 1
    assert found.checks[0].outcome == "fail"
    same = np.full_like(EXACT, EXACT.mean())
    found = judge(TASK, answered(EXACT), answered(same), Limits(max_drop=100.0))
    assert found.constant
    assert found.checks[0].outcome == "fail"


def test_a_floor_judges_the_engine_itself() -> None:
    limits = Limits(max_drop=1.0, floor={"mae": 0.1})
    outcomes = {
        c.name: c.outcome for c in judge(TASK, answered(EXACT), answered(EXACT), limits).checks
    }
    assert outcomes["mae"] == "pass"
    assert "fail" in outcomes.values()


def test_what_cannot_be_compared_is_refused() -> None:
    limits = Limits(max_drop=1.0)
    with pytest.raises(DataError, match="answered other data"):
        judge(TASK, answered(EXACT), answered(EXACT[:100]), limits)
    with pytest.raises(DataError, match="answered other data"):
        judge(
            TASK,
            answered(EXACT, data_fingerprint="a"),
            answered(EXACT, data_fingerprint="b"),
            limits,
        )
    other = Answers({"output:z": EXACT, **TASK.rows({"y": EXACT}, {"": TARGET})})
    with pytest.raises(ModelError, match="outputs are not the same"):
        judge(TASK, answered(EXACT), other, limits)
    holes = EXACT.copy()
    holes[0] = np.inf
    with pytest.raises(ModelError, match="1 of 2000 outputs have NaN or Inf"):
        check_answers(TASK, answered(holes), limits)
    with pytest.raises(UsageError, match="no metric 'top1'"):
        check_answers(TASK, answered(EXACT), Limits(metric=("top1",)))
