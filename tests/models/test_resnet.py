"""Networks: published parameter counts, names, shapes, and rebuilding from a plan alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from edgeres.errors import ModelError
from edgeres.models.build import build_model, plan_for, read_plan
from edgeres.models.plan import ARCHITECTURES, ChannelPlan

# torchvision's published counts; the last three are timm's (its tables give 25.58, 11.71 and
# 28.09 M); CIFAR ones are counted by hand below.
PUBLISHED = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "resnext50_32x4d": 25_028_904,
    "resnext101_32x8d": 88_791_336,
    "resnext101_64x4d": 83_455_272,
    "wide_resnet50_2": 68_883_240,
    "wide_resnet101_2": 126_886_696,
    "resnet50d": 25_576_264,
    "resnet18d": 11_708_744,
    "seresnet50": 28_088_024,
}


def on_meta(plan: ChannelPlan) -> nn.Module:
    """The network without memory or arithmetic: enough to count and to name."""
    with torch.device("meta"):
        return build_model(plan)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(("name", "parameters"), PUBLISHED.items())
def test_published_parameter_counts(name: str, parameters: int) -> None:
    assert count(on_meta(plan_for(name))) == parameters


@pytest.mark.parametrize("depth", [20, 32, 44, 56, 110])
def test_cifar_counts(depth: int) -> None:
    n = (depth - 2) // 6
    widths = (16, 32, 64)
    expected = 3 * 16 * 9 + 2 * 16 + 64 * 10 + 10
    stream = 16
    for width in widths:
        first = stream * width * 9 + 2 * width
        rest = (2 * n - 1) * (width * width * 9 + 2 * width)
        projection = 0 if stream == width else stream * width + 2 * width
        expected += first + rest + projection
        stream = width
    assert count(on_meta(plan_for(f"resnet{depth}", num_classes=10))) == expected


def test_torchvision_names() -> None:
    names = set(on_meta(plan_for("resnet50")).state_dict())
    assert {"conv1.weight", "bn1.running_mean", "fc.bias"} <= names
    assert {"layer1.0.downsample.0.weight", "layer1.0.downsample.1.num_batches_tracked"} <= names
    assert "layer4.2.conv3.weight" in names
    assert len(names) == 320  # as torchvision's resnet50


SHALLOW = [name for name in sorted(ARCHITECTURES) if not any(d in name for d in ("101", "152"))]


@pytest.mark.parametrize(
    ("name", "channels"), [(name, 1 + 2 * (place % 2)) for place, name in enumerate(SHALLOW)]
)
def test_shallow_architectures_give_logits(name: str, channels: int) -> None:
    plan = plan_for(name, num_classes=5, in_channels=channels, width_multiplier=0.5)
    module = on_meta(plan).eval()
    images = torch.empty(2, channels, 65, 47, device="meta")
    assert module(images).shape == (2, 5)


@pytest.mark.parametrize("side", [28, 29, 30, 31, 33])
def test_pooled_branches_have_one_size(side: int) -> None:
    plan = plan_for("pooled_resnet", num_classes=3, in_channels=1, width_multiplier=0.25)
    module = build_model(plan)
    assert module(torch.randn(2, 1, side, side + 1)).shape == (2, 3)


@pytest.mark.parametrize("name", ["resnet20", "pooled_resnet", "resnet18", "seresnet18"])
def test_rebuilt_from_json_computes_the_same(name: str) -> None:
    plan = plan_for(name, num_classes=4, in_channels=1, width_multiplier=0.25)
    first = build_model(plan).eval()
    second = build_model(ChannelPlan.from_json(plan.to_json())).eval()
    second.load_state_dict(first.state_dict())
    images = torch.randn(2, 1, 32, 32)
    assert torch.equal(first(images), second(images))


def test_pruned_widths_rebuild() -> None:
    plan = plan_for("resnet20", num_classes=10, in_channels=1)
    widths = dict(plan.widths) | {"layer1.0.conv1": 5, "layer3.2.conv1": 40}
    pruned = replace(plan, widths=widths)
    module = build_model(pruned)
    assert module.get_parameter("layer1.0.conv1.weight").shape == (5, 16, 3, 3)
    assert module.get_parameter("layer1.0.conv2.weight").shape == (16, 5, 3, 3)
    assert read_plan(module, plan) == pruned


def test_read_plan_keeps_groups() -> None:
    plan = plan_for("resnext50_32x4d")
    assert read_plan(on_meta(plan), plan) == plan


def _without(plan: ChannelPlan, name: str) -> ChannelPlan:
    return replace(plan, widths={k: v for k, v in plan.widths.items() if k != name})


def test_plan_faults_name_the_layer() -> None:
    plan = plan_for("resnet20")
    with pytest.raises(ModelError, match=r"layer2\.1\.conv1"):
        build_model(_without(plan, "layer2.1.conv1"))
    with pytest.raises(ModelError, match=r"layer2\.0\.downsample\.0"):
        build_model(_without(plan, "layer2.0.downsample.0"))
    with pytest.raises(ModelError, match=r"layer9\.0\.conv1"):
        build_model(replace(plan, widths=dict(plan.widths) | {"layer9.0.conv1": 8}))
    with pytest.raises(ModelError, match=r"downsample"):
        build_model(replace(plan, widths=dict(plan.widths) | {"layer2.0.downsample.0": 24}))
    wide = plan_for("resnext50_32x4d")
    with pytest.raises(ModelError, match="groups"):
        build_model(replace(wide, widths=dict(wide.widths) | {"layer1.0.conv2": 33}))


def test_read_plan_of_another_network() -> None:
    with pytest.raises(ModelError, match="differ"):
        read_plan(on_meta(plan_for("resnet18")), plan_for("resnet34"))
