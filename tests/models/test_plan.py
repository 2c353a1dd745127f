"""Channel plans: widths, JSON round trip and refusals."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeres.errors import ModelError, UsageError
from edgeres.models.plan import ARCHITECTURES, ChannelPlan, plan_for


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_json_round_trip(name: str) -> None:
    plan = plan_for(name, num_classes=7, in_channels=1, width_multiplier=0.5)
    assert ChannelPlan.from_json(plan.to_json()) == plan


@settings(deadline=None, max_examples=20)
@given(name=st.sampled_from(sorted(ARCHITECTURES)), multiplier=st.floats(0.01, 4.0))
def test_scaled_widths_are_multiples_of_eight_and_close(name: str, multiplier: float) -> None:
    whole = plan_for(name, width_multiplier=1.0)
    scaled = plan_for(name, width_multiplier=multiplier)
    assert set(scaled.widths) == set(whole.widths)
    for key, width in scaled.widths.items():
        if multiplier == 1.0 or ".se.fc1" in key:
            continue
        step = max(8, scaled.groups.get(key.replace("conv1", "conv2"), 1))
        assert width % 8 == 0
        assert width >= 0.9 * whole.widths[key] * multiplier
        assert width <= whole.widths[key] * multiplier + step


def test_groups_divide_scaled_widths() -> None:
    plan = plan_for("resnext50_32x4d", width_multiplier=0.3)
    for name, groups in plan.groups.items():
        assert plan.widths[name] % groups == 0
        assert plan.widths[name.replace("conv2", "conv1")] % groups == 0


@pytest.mark.parametrize(
    "arguments",
    [{"in_channels": 2}, {"num_classes": 0}, {"width_multiplier": 0.0}, {"width_multiplier": 99}],
)
def test_arguments_out_of_range(arguments: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="Expected"):
        plan_for("resnet20", **arguments)  # type: ignore[arg-type]


def test_unknown_architecture_lists_known_ones() -> None:
    with pytest.raises(UsageError, match="resnet21") as caught:
        plan_for("resnet21")
    assert "resnet20" in caught.value.hint


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 99},
        {"architecture": "vgg"},
        {"architecture": ["resnet20"]},
        {"widths": []},
        {"widths": {"conv1": -3}},
        {"widths": {"conv1": True}},
        {"num_classes": "ten"},
        {"groups": None},
        {"extra": 1},
    ],
)
def test_damaged_plans_are_model_errors(change: dict[str, object]) -> None:
    content = json.loads(plan_for("resnet20").to_json()) | change
    with pytest.raises(ModelError):
        ChannelPlan.from_json(json.dumps(content))


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "null"])
def test_text_that_is_no_plan(text: str) -> None:
    with pytest.raises(ModelError):
        ChannelPlan.from_json(text)
