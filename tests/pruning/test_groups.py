"""Groups of every architecture: what is coupled, and that removing equals silencing."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from edgeres.errors import ModelError
from edgeres.models.build import build_model, read_plan
from edgeres.models.plan import plan_for
from edgeres.pruning.groups import ChannelGraph
from edgeres.pruning.masking import check_equal, silenced

SMALL = {
    "resnet20": ((1, 12, 12), {"in_channels": 1}),
    "resnet18": ((3, 32, 32), {"width_multiplier": 0.25}),
    "resnet50": ((3, 32, 32), {"width_multiplier": 0.25}),
    "resnet18d": ((3, 32, 32), {"width_multiplier": 0.25}),
    "seresnet18": ((3, 32, 32), {"width_multiplier": 0.25}),
    "resnext50_32x4d": ((3, 32, 32), {"width_multiplier": 0.5}),
    "pooled_resnet": ((1, 12, 12), {"in_channels": 1}),
}


def test_the_stream_of_a_stage_is_one_group(network: Callable) -> None:
    module, _ = network("resnet20", in_channels=1)
    groups = {group.name: group for group in ChannelGraph(module, (1, 8, 8)).groups}
    stages = ("conv1", "layer2.0.conv2", "layer3.0.conv2")
    inner = [f"layer{stage}.{block}.conv1" for stage in (1, 2, 3) for block in range(3)]
    assert set(groups) == {*stages, *inner}
    stream = groups["layer2.0.conv2"]
    assert stream.channels == 32
    assert set(stream.layers("out")) == {
        "layer2.0.conv2",
        "layer2.0.downsample.0",
        "layer2.1.conv2",
        "layer2.2.conv2",
    }
    assert set(stream.layers("in")) == {
        "layer2.1.conv1",
        "layer2.2.conv1",
        "layer3.0.conv1",
        "layer3.0.downsample.0",
    }
    assert all(member.root == tuple(range(32)) for member in stream.members)
    sources = {m.layer: m.source for m in stream.members if m.side == "norm"}
    assert sources["layer2.0.downsample.1"] == "layer2.0.downsample.0"
    assert set(groups["layer3.0.conv2"].layers("in")) >= {"fc"}


def test_grouped_convolutions_tie_both_sides_in_whole_groups(network: Callable) -> None:
    module, _ = network("resnext50_32x4d")
    groups = {group.name: group for group in ChannelGraph(module, (3, 32, 32)).groups}
    group = groups["layer2.1.conv1"]
    assert (group.channels, group.unit) == (256, 8)
    assert group.layers("both") == ("layer2.1.conv2",)
    assert group.layers("in") == ("layer2.1.conv3",)
    assert type(module.get_submodule("layer2.1.conv2")) is nn.Conv2d


@pytest.mark.parametrize("name", SMALL)
def test_every_convolution_is_in_groups(name: str, network: Callable) -> None:
    shape, arguments = SMALL[name]
    module, plan = network(name, **arguments)
    groups = ChannelGraph(module, shape).groups
    written = [n for g in groups for n in (*g.layers("out"), *g.layers("both"))]
    assert sorted(written) == sorted(plan.widths)
    read = [n for g in groups for n in (*g.layers("in"), *g.layers("both"))]
    first = "conv1.0" if plan.spec.deep_stem else "conv1"
    assert sorted([*read, first]) == sorted([*plan.widths, "fc"])


@pytest.mark.parametrize("name", SMALL)
@settings(
    max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seed=st.integers(0, 2**31))
def test_removing_equals_silencing_and_the_plan_rebuilds(
    name: str, seed: int, network: Callable
) -> None:
    shape, arguments = SMALL[name]
    module, plan = network(name, **arguments)
    graph = ChannelGraph(module, shape)
    generator = np.random.default_rng(seed)
    removed: dict[str, list[int]] = {}
    for group in graph.groups:
        units = group.channels // group.unit
        gone = generator.permutation(units)[: generator.integers(0, units)]
        removed[group.name] = [int(u) * group.unit + i for u in gone for i in range(group.unit)]
    images = torch.randn(2, *shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        with silenced(module, graph.groups, removed):
            silent = module(images)
        dense = module(images)
        graph.remove(removed)
        pruned = module(images)
        check_equal(silent, pruned)
        torch.testing.assert_close(silent, pruned, rtol=1e-3, atol=1e-4)
        if any(removed.values()):
            assert not torch.allclose(dense, pruned)
        rebuilt = build_model(read_plan(module, plan)).eval()
        rebuilt.load_state_dict(module.state_dict())
        torch.testing.assert_close(rebuilt(images), pruned, rtol=0, atol=0)
    for group in graph.groups:
        left = module.get_submodule(group.name).out_channels
        assert left == group.channels - len(removed[group.name])


def test_a_wrong_removal_is_seen(network: Callable) -> None:
    """The proof fails when another channel is removed than was meant."""
    module, _ = network("resnet20", in_channels=1)
    graph = ChannelGraph(module, (1, 8, 8))
    images = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        with silenced(module, graph.groups, {"layer1.0.conv1": [0, 1]}):
            silent = module(images)
        graph.remove({"layer1.0.conv1": [0, 2]})
        with pytest.raises(ModelError, match="set to zero"):
            check_equal(silent, module(images))


class Block(nn.Module):
    def __init__(self, body: Callable[[nn.Module, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.body = body
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.body(self, self.conv1(x).relu()).mean((2, 3)))


def shuffle(x: torch.Tensor) -> torch.Tensor:
    n, c, h, w = x.shape
    return x.reshape(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


@pytest.mark.parametrize(
    ("body", "operation"),
    [
        (lambda m, x: m.conv2(x[:, :8].flip(1)), "Flip"),
        (lambda m, x: torch.cat([m.conv2(x)[:, 4:], x[:, :4]], 1), "Cat"),
        (lambda m, x: m.conv2(shuffle(x)), "Transpose"),
        (lambda m, x: m.conv2(x).softmax(1), "Softmax"),
        (lambda m, x: m.conv2(x) * x.mean(1, keepdim=True), "Mean"),
        (
            lambda m, x: torch.nn.functional.interpolate(m.conv2(x), scale_factor=2),
            "UpsampleNearest2D",
        ),
    ],
)
def test_operations_that_mix_channels_are_named(
    body: Callable[[nn.Module, torch.Tensor], torch.Tensor], operation: str
) -> None:
    with pytest.raises(ModelError, match=f"Operation '{operation}' may mix"):
        ChannelGraph(Block(body), (3, 8, 8))


def test_shared_and_repeated_layers_are_named() -> None:
    with pytest.raises(ModelError, match=r"'conv2' runs 2 times"):
        ChannelGraph(Block(lambda m, x: m.conv2(m.conv2(x))), (3, 8, 8))
    tied = Block(lambda m, x: m.conv2(x) + m.conv3(x))
    tied.conv3 = nn.Conv2d(8, 8, 3, padding=1)
    tied.conv3.weight = tied.conv2.weight
    with pytest.raises(ModelError, match=r"shared between 'conv2\.weight' and 'conv3\.weight'"):
        ChannelGraph(tied, (3, 8, 8))


def test_layers_with_unknown_parameters_are_named() -> None:
    strange = Block(lambda m, x: m.act(m.conv2(x)))
    strange.act = nn.PReLU(8)
    with pytest.raises(ModelError, match=r"Layer 'act' \(PReLU\) has parameter 'weight'"):
        ChannelGraph(strange, (3, 8, 8))


def test_a_grouped_convolution_that_changes_width_is_named() -> None:
    odd = Block(lambda m, x: m.conv3(m.conv2(x)))
    odd.conv2 = nn.Conv2d(8, 16, 3, padding=1, groups=4)
    odd.conv3 = nn.Conv2d(16, 8, 1)
    with pytest.raises(ModelError, match="'conv2' has 4 groups and turns 8 channels into 16"):
        ChannelGraph(odd, (3, 8, 8))


def test_depthwise_convolutions_and_flattened_maps() -> None:
    """Not in our networks, but in others': a depthwise layer, and a classifier over pixels."""

    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
            self.depth = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
            self.norm = nn.BatchNorm2d(8)
            self.fc = nn.Linear(8 * 4 * 4, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.norm(self.depth(self.stem(x))).flatten(1))

    module = Other()
    for norm in (module.stem[1], module.norm):
        nn.init.uniform_(norm.bias, -1, 1)
    module.eval()
    graph = ChannelGraph(module, (3, 4, 4))
    (group,) = graph.groups
    assert (group.channels, group.unit) == (8, 1)
    classifier = next(m for m in group.members if m.layer == "fc")
    assert classifier.root == tuple(c for c in range(8) for _ in range(16))
    removed = {group.name: [1, 6]}
    images = torch.randn(2, 3, 4, 4)
    with torch.no_grad():
        with silenced(module, graph.groups, removed):
            silent = module(images)
        graph.remove(removed)
        torch.testing.assert_close(module(images), silent)
    assert module.depth.groups == 6


def test_the_module_given_to_the_stage_is_not_the_one_that_is_cut(network: Callable) -> None:
    module, _ = network("resnet20", in_channels=1)
    graph = ChannelGraph(copy.deepcopy(module), (1, 8, 8))
    graph.remove({"conv1": [0]})
    assert module.conv1.out_channels == plan_for("resnet20").widths["conv1"]
