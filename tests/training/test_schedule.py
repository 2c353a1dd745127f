"""Learning rates: warm-up, peak, end, and no jump between."""

from __future__ import annotations

from itertools import pairwise

import pytest

from edgeres.recipe.training import TrainSettings
from edgeres.training.schedule import START_FRACTION, learning_rate


def test_one_cycle_rises_to_the_peak_and_falls_to_the_end() -> None:
    settings = TrainSettings(learning_rate=0.4, warmup_fraction=0.25, final_fraction=0.01)
    rates = [learning_rate(settings, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.4 * START_FRACTION)
    assert rates[25] == pytest.approx(0.4) == max(rates)
    assert rates[-1] == pytest.approx(0.004)
    assert all(a < b for a, b in pairwise(rates[:26]))
    assert all(a > b for a, b in pairwise(rates[25:]))


def test_cosine_starts_at_the_peak_and_is_half_way_in_the_middle() -> None:
    settings = TrainSettings(learning_rate=0.2, schedule="cosine", final_fraction=0.0)
    assert learning_rate(settings, 0, 101) == pytest.approx(0.2)
    assert learning_rate(settings, 50, 101) == pytest.approx(0.1)
    assert learning_rate(settings, 100, 101) == pytest.approx(0.0)


@pytest.mark.parametrize("schedule", ["cosine", "one_cycle"])
def test_a_run_of_one_step(schedule: str) -> None:
    settings = TrainSettings.model_validate({"schedule": schedule})
    assert 0 < learning_rate(settings, 0, 1) <= settings.learning_rate
