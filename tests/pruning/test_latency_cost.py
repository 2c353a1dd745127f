"""Pruning by latency: the cost of widths, the budget, the floor, and what reaches the report."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from edgeres.errors import ModelError, UsageError
from edgeres.exporting.to_onnx import export_onnx
from edgeres.layer_latency.predict import LatencyModel, make_model
from edgeres.layer_latency.shapes import LayerShape, NetworkLayer, network_layers
from edgeres.layer_latency.table import (
    LatencyTable,
    MeasurementContext,
    Multiples,
    NetworkTime,
    ShapeTimes,
)
from edgeres.models.cost import layer_macs
from edgeres.pruning.groups import ChannelGraph
from edgeres.pruning.latency_cost import LatencyCost, module_widths, predicted_ms
from edgeres.pruning.prune import prune, prune_module
from edgeres.recipe.prune import PruneSettings

SHAPE = (1, 12, 12)
PLACE = MeasurementContext("b", "cpu", "int8", 1, 1, "CPU", 1, (), {})


def time_of(shape: LayerShape, inputs: int, outputs: int) -> float:
    """A device on which the early, large images are dear: milliseconds go with the pixels."""
    return shape.size[0] ** 2 * inputs * outputs * 1e-6


def model_of(layers: tuple[NetworkLayer, ...]) -> LatencyModel:
    table = LatencyTable(PLACE, Multiples(1, 1))
    for layer in layers:
        grid = ((1, 512), (1, 512))
        ms = tuple(tuple(time_of(layer.shape, i, o) for o in grid[1]) for i in grid[0])
        table = table.with_shape(layer.shape, ShapeTimes(*grid, ms))
    whole = sum(time_of(n.shape, n.inputs, n.outputs) for n in layers)
    return make_model(layers, table, [NetworkTime(1.0, whole, whole)])


@pytest.fixture(scope="module")
def latency(network: Callable, tmp_path_factory: pytest.TempPathFactory) -> LatencyModel:
    module, _ = network("resnet20", in_channels=1)
    path = tmp_path_factory.mktemp("onnx") / "net.onnx"
    export_onnx(module, SHAPE, path)
    return model_of(network_layers(path))


def test_the_cost_is_that_of_the_narrowed_module(
    network: Callable, data: Callable, latency: LatencyModel
) -> None:
    module, _ = network("resnet20", in_channels=1)
    assert predicted_ms(module, latency) == pytest.approx(latency.predict_ms({}))
    graph = ChannelGraph(module, SHAPE)
    cost = LatencyCost(graph.groups, latency)
    assert cost({}) == pytest.approx(latency.dense_ms)
    removed = {g.name: list(range(8)) for g in graph.groups}
    widths = {g.name: g.channels - 8 for g in graph.groups}
    graph.remove(removed)
    assert cost(widths) == pytest.approx(predicted_ms(graph.module, latency))
    assert cost.layer_widths(widths) == module_widths(graph.module, latency)
    # of the narrowed module itself, too
    assert LatencyCost(ChannelGraph(graph.module, SHAPE).groups, latency)({}) == pytest.approx(
        cost(widths)
    )


def test_the_cost_does_not_depend_on_what_was_asked_before(
    network: Callable, latency: LatencyModel
) -> None:
    module, _ = network("resnet20", in_channels=1)
    groups = ChannelGraph(module, SHAPE).groups
    cost = LatencyCost(groups, latency)
    draw = random.Random(0)
    widths: dict[str, int] = {}
    for _ in range(200):
        for group in draw.sample(list(groups), draw.choice([1, 1, 2, 9])):
            widths[group.name] = draw.randint(1, group.channels)
        if draw.random() < 0.1:
            widths.pop(draw.choice(list(widths)))
        assert cost(widths) == pytest.approx(LatencyCost(groups, latency)(widths))


@pytest.mark.parametrize("steps", [1, 2])
def test_the_budget_is_met_and_the_dear_layers_go_first(
    steps: int, network: Callable, data: Callable, latency: LatencyModel
) -> None:
    module, plan = network("resnet20", in_channels=1)
    settings = PruneSettings(
        allocation="latency", target_latency=0.5, importance="l1", normalization="mean",
        iterative_steps=steps, round_to=2,
    )  # fmt: skip
    result = prune_module(module, settings, data(SHAPE), latency=latency)
    assert result.latency_ms is not None
    before, after = result.latency_ms
    assert 0.46 < after / before <= 0.5
    pruned = prune(module, plan, settings, data(SHAPE), latency=latency).module
    assert predicted_ms(pruned, latency) == pytest.approx(after)
    # the same importance by multiply-adds: more milliseconds for the same sum of widths
    uniform = prune_module(
        module,
        PruneSettings(macs_ratio=0.5, allocation="uniform", importance="l1", round_to=2),
        data(SHAPE),
        latency=latency,
    )
    assert uniform.latency_ms is not None
    macs = layer_macs(result.module, SHAPE)
    dense = layer_macs(module, SHAPE)
    early, late = "layer1.0.conv1", "layer3.2.conv1"
    assert macs[early] / dense[early] < macs[late] / dense[late]


def test_a_budget_below_the_floor_names_it(
    network: Callable, data: Callable, latency: LatencyModel
) -> None:
    module, plan = network("resnet20", in_channels=1)
    settings = PruneSettings(allocation="latency", target_latency=0.001, importance="l1")
    with pytest.raises(UsageError, match=r"at least 0\.\d+ of the cost, the floor, got .* 0\.001"):
        prune(module, plan, settings, data(SHAPE), latency=latency)


def test_what_does_not_go_together_is_refused(
    network: Callable, data: Callable, latency: LatencyModel
) -> None:
    module, _ = network("resnet20", in_channels=1)
    settings = PruneSettings(allocation="latency", target_latency=0.5, importance="l1")
    with pytest.raises(UsageError, match="needs a latency model"):
        prune_module(module, settings, data(SHAPE))
    other = nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)
    )
    before = {k: v.clone() for k, v in other.state_dict().items()}
    with pytest.raises(ModelError, match="has no"):
        prune_module(other, settings, data(SHAPE), latency=latency)
    assert all(torch.equal(v, before[k]) for k, v in other.state_dict().items())


@pytest.mark.parametrize("wrong", [0.0, 1.0, -1.0, float("nan"), None])
def test_goals_that_make_no_sense(wrong: float | None) -> None:
    with pytest.raises(UsageError, match="target_latency"):
        PruneSettings(allocation="latency", target_latency=wrong)
    with pytest.raises(UsageError, match="target_latency"):
        PruneSettings(allocation="global", target_latency=0.5)


def test_layers_of_a_real_export_are_all_known(latency: LatencyModel, tmp_path: Path) -> None:
    assert len(latency.layers) == 22
    assert {n.name for n in latency.layers} >= {"conv1", "layer2.0.downsample.0", "fc"}
