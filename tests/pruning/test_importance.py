"""Importance functions against their definitions, and gates against finite differences."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from edgeres.errors import ModelError
from edgeres.pruning import importance
from edgeres.pruning.groups import ChannelGraph
from edgeres.pruning.masking import silenced
from edgeres.pruning.scores import score_channels
from edgeres.pruning.signals import effective_filters, gate_derivatives, norm_scales
from edgeres.recipe.prune import Importance

FILTERS = torch.tensor([[3.0, -4.0], [0.0, 0.0], [1.0, 1.0], [-6.0, 8.0]])


def test_magnitudes() -> None:
    assert importance.l1(FILTERS).tolist() == [7, 0, 2, 14]
    torch.testing.assert_close(importance.l2(FILTERS), torch.tensor([5, 0, 2**0.5, 10]))
    assert importance.bn_scale(torch.tensor([[1.0, -2.0], [0.0, 0.5]])).tolist() == [3, 0.5]


def test_fpgm_is_the_sum_of_distances() -> None:
    expected = [sum(float((a - b).norm()) for b in FILTERS) for a in FILTERS]
    torch.testing.assert_close(importance.fpgm(FILTERS), torch.tensor(expected))
    # the filter in the middle is the one that the others can stand in for
    line = torch.tensor([[0.0], [1.0], [2.0], [3.0], [9.0]])
    assert int(importance.fpgm(line).argmin()) == 2


def test_gate_based() -> None:
    gates = torch.tensor([[1.0, -2.0], [-1.0, 0.0]])
    assert importance.taylor(gates).tolist() == [1, 1]
    assert importance.taylor_hessian(gates).tolist() == [0.5, 1]


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=12))
def test_lamp_is_each_share_of_itself_and_the_larger(values: list[float]) -> None:
    scores = torch.tensor(values, dtype=torch.float64)
    found = importance.lamp(scores)
    order = scores.argsort(stable=True).tolist()
    for place, index in enumerate(order):
        rest = sum(values[i] for i in order[place:])
        assert float(found[index]) == pytest.approx(values[index] / rest)
    assert float(found.max()) == pytest.approx(1.0)
    assert torch.equal(found.argsort(stable=True), scores.argsort(stable=True))


def test_normalizations_of_a_dead_group() -> None:
    dead = torch.zeros(3)
    assert importance.by_mean(dead).tolist() == [0, 0, 0]
    assert torch.isfinite(importance.lamp(dead)).all()
    assert importance.by_mean(torch.tensor([1.0, 3.0])).tolist() == [0.5, 1.5]


def test_effective_filters_do_not_see_the_scale_before_normalization(network: Callable) -> None:
    module, _ = network("resnet20", in_channels=1)
    group = next(g for g in ChannelGraph(module, (1, 8, 8)).groups if g.name == "layer2.0.conv2")
    before = effective_filters(module, group)
    assert before.shape == (32, 3 * 32 * 9 + 16)  # three 3x3 convolutions and a projection
    with torch.no_grad():
        module.layer2[1].conv2.weight *= 7
        module.layer2[1].bn2.running_mean *= 7
        module.layer2[1].bn2.running_var *= 49
        module.layer2[1].bn2.eps *= 49
    torch.testing.assert_close(effective_filters(module, group), before)
    assert norm_scales(module, group).shape == (32, 4)


def test_gates_of_squeeze_and_excitation_use_what_adds(network: Callable) -> None:
    module, _ = network("seresnet18", width_multiplier=0.25)
    groups = {g.name: g for g in ChannelGraph(module, (3, 16, 16)).groups}
    stream = groups["layer2.0.conv2"]
    assert effective_filters(module, stream).shape == (32, 2 * 32 * 9 + 16)
    gate = groups["layer2.0.se.fc1"]
    assert norm_scales(module, gate).shape == (8, 1)


@pytest.mark.parametrize("name", ["resnet20", "pooled_resnet"])
def test_gate_derivatives_are_derivatives(name: str, network: Callable, data: Callable) -> None:
    """Against finite differences of each image's loss by a factor on the channel."""
    module, _ = network(name, in_channels=1, width_multiplier=0.5)
    module = module.double()
    groups = ChannelGraph(module.float(), (1, 12, 12)).groups
    module = module.double()
    images, labels = data((1, 12, 12), (3,))[0]
    batch = [(images.astype(np.float64), labels)]
    found = gate_derivatives(module, groups, batch)  # type: ignore[arg-type]

    def losses(layers: tuple[str, ...], channel: int, factor: float) -> torch.Tensor:
        def scale(_: nn.Module, __: object, output: torch.Tensor) -> torch.Tensor:
            output = output.clone()
            output[:, channel] *= factor
            return output

        handles = [module.get_submodule(n).register_forward_hook(scale) for n in layers]
        with torch.no_grad():
            logits = module(torch.from_numpy(batch[0][0]))
        for handle in handles:
            handle.remove()
        return functional.cross_entropy(logits, torch.from_numpy(labels), reduction="none")

    for group in (groups[0], groups[1], groups[-1]):
        layers = group.layers("norm")
        for channel in (0, group.channels - 1):
            step = 1e-5
            expected = losses(layers, channel, 1 + step) - losses(layers, channel, 1 - step)
            torch.testing.assert_close(
                found[group.name][:, channel], expected / (2 * step), rtol=1e-3, atol=1e-7
            )


def test_taylor_finds_the_channel_that_matters(network: Callable, data: Callable) -> None:
    """A silent channel scores zero; silencing the best one moves the loss more than the worst."""
    module, _ = network("resnet20", in_channels=1)
    graph = ChannelGraph(module, (1, 12, 12))
    group = graph.groups[1]
    with torch.no_grad():
        norm = module.get_submodule(group.layers("norm")[0])
        norm.weight[3] = norm.bias[3] = 0
    batches = data((1, 12, 12))
    kinds: tuple[Importance, ...] = ("taylor", "taylor_hessian")
    for kind in kinds:
        scores = score_channels(module, [group], batches, kind=kind, normalization="none")
        assert scores[group.name][3] == 0
        assert int(scores[group.name].argmin()) == 3
        change = {}
        for channel in (int(scores[group.name].argmax()), int(scores[group.name].argsort()[1])):
            images = torch.from_numpy(batches[0][0])
            with torch.no_grad():
                dense = module(images)
                with silenced(module, [group], {group.name: [channel]}):
                    change[channel] = float((module(images) - dense).norm())
        best, worst = change.values()
        assert best > worst


@pytest.mark.parametrize("kind", ["l1", "l2", "fpgm", "bn_scale", "taylor", "taylor_hessian"])
def test_channels_of_a_unit_share_their_score(
    kind: Importance, network: Callable, data: Callable
) -> None:
    module, _ = network("resnext50_32x4d", width_multiplier=0.5)
    graph = ChannelGraph(module, (3, 16, 16))
    groups = [g for g in graph.groups if g.name in ("layer2.0.conv1", "conv1")]
    scores = score_channels(
        module, groups, data((3, 16, 16), (5,)), kind=kind, normalization="none"
    )
    for group in groups:
        assert scores[group.name].shape == (group.channels,)
        units = scores[group.name].reshape(-1, group.unit)
        assert (units == units[:, :1]).all()
        assert len(set(units[:, 0])) > 1
    assert {g.unit for g in groups} == {1, 4}


def test_scores_that_are_not_finite_are_refused(network: Callable, data: Callable) -> None:
    module, _ = network("resnet20", in_channels=1)
    groups = ChannelGraph(module, (1, 8, 8)).groups
    with torch.no_grad():
        module.layer1[0].conv1.weight[0] = float("nan")
    with pytest.raises(ModelError, match=r"importance 'l2' of 'layer1\.0\.conv1' is not finite"):
        score_channels(module, groups, data((1, 8, 8)), kind="l2", normalization="mean")
