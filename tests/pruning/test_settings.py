"""Settings that make no sense are refused by name."""

from __future__ import annotations

import math

import pytest

from edgeres.errors import UsageError
from edgeres.pruning.settings import PruneSettings, finetune_settings


@pytest.mark.parametrize("ratio", [0.0, 1.0, -1.0, 1.5, math.nan, math.inf, -math.inf])
def test_ratios_out_of_range(ratio: float) -> None:
    with pytest.raises(UsageError, match=r"'macs_ratio' above 0 and below 1, got") as caught:
        PruneSettings(macs_ratio=ratio)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("importance", "magic"),
        ("normalization", "max"),
        ("allocation", "magic"),
        ("round_to", 0),
        ("min_share", 0.0),
        ("min_share", 1.1),
        ("min_share", math.nan),
        ("steps", 0),
        ("samples", 1),
        ("epochs_between", -1),
        ("widths", {"conv1": 8}),  # without per_layer
    ],
)
def test_other_fields_out_of_range(field: str, value: object) -> None:
    with pytest.raises(UsageError, match=f"Expected pruning setting '{field}'"):
        PruneSettings(**{field: value})  # type: ignore[arg-type]


def test_combinations() -> None:
    with pytest.raises(UsageError, match="'widths' widths with allocation 'per_layer'"):
        PruneSettings(allocation="per_layer")
    with pytest.raises(UsageError, match="at least 1 channel in 'conv1', got 0"):
        PruneSettings(allocation="per_layer", widths={"conv1": 0})
    with pytest.raises(UsageError, match="epochs_between"):
        PruneSettings(finetune=None, epochs_between=2)
    assert PruneSettings(allocation="per_layer", widths={"conv1": 8}).widths == {"conv1": 8}


def test_fine_tuning_follows_the_teacher_and_can_be_changed() -> None:
    assert finetune_settings().distill_weight > 0
    assert finetune_settings(epochs=3, distill_weight=0.0).epochs == 3
    with pytest.raises(UsageError, match="learning_rate"):
        finetune_settings(learning_rate=0.0)
