"""Bounds hold as often as they say: a small part of `benchmarks/task_bounds.py`."""

from __future__ import annotations

import math
from pathlib import Path
from types import ModuleType

import pytest

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "task_bounds.py"


@pytest.fixture(scope="module")
def program(load_program) -> ModuleType:
    return load_program(PROGRAM)


@pytest.mark.parametrize("worse", [False, True])
@pytest.mark.parametrize(
    ("name", "runs", "resamples"),
    [
        ("right or wrong, 2 % differ", 300, 0),
        ("mean absolute error, all differ", 300, 0),
        ("mean absolute error, 2 % differ", 300, 0),
        ("mean score in tenths, 90 % ties", 300, 0),
        ("SQNR, log-normal noise", 100, 0),
        ("AUC, 10 % positive", 100, 200),
        ("F1 of four classes", 100, 200),
        ("mean IoU of five classes", 100, 200),
    ],
)
def test_bounds_of_500_samples_cover_the_true_drop(program, name, runs, resamples, worse) -> None:
    row = program.simulate(name, 500, worse, runs, resamples)
    chance = 3 * math.sqrt(0.95 * 0.05 / runs)
    for side in ("upper_coverage", "lower_coverage"):
        assert row[side] >= 0.93 - chance, row
    # a bound that always holds says nothing: it lies as near as the spread allows
    assert row["upper_above_drop"] < 3.0 * abs(row["budget"]), row


def test_a_scenario_knows_its_true_drop(program) -> None:
    import numpy as np

    from edgeres.tasks.difference import difference

    for name, one in program.scenarios().items():
        for worse in (False, True):
            rng = np.random.default_rng(1)
            before, after, drop = one.make(rng, 20_000, worse)
            d = difference(one.metric, before, after, resamples=20)
            wide = 4 * d.spread / math.sqrt(20_000)
            assert d.drop == pytest.approx(drop, abs=wide), (name, worse)
