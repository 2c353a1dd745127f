"""The stage as a whole: budgets met, plans that rebuild, refusals that change nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgeres.errors import DataError, ModelError, UsageError
from edgeres.models.build import build_model
from edgeres.models.checkpoint import Checkpoint, load_checkpoint, load_module, save_checkpoint
from edgeres.models.cost import count_macs, count_parameters
from edgeres.pruning.groups import ChannelGraph
from edgeres.pruning.prune import prune, prune_module
from edgeres.pruning.recalibrate import recalibrate
from edgeres.pruning.reconstruct import FITTED
from edgeres.recipe.prune import PruneSettings

GREY = (1, 12, 12)
COLOUR = (3, 16, 16)


@pytest.mark.parametrize("allocation", ["uniform", "global"])
@pytest.mark.parametrize(
    ("name", "shape", "width", "round_to"),
    [
        ("resnet20", GREY, 1.0, 8),
        ("resnet20", GREY, 1.0, 4),
        ("resnet50", COLOUR, 0.25, 8),
        ("resnext50_32x4d", COLOUR, 0.5, 8),
        ("seresnet18", COLOUR, 0.5, 8),
        ("resnet18d", COLOUR, 0.5, 8),
        ("pooled_resnet", GREY, 1.0, 8),
    ],
)
def test_half_the_work(
    allocation: str,
    name: str,
    shape: tuple[int, int, int],
    width: float,
    round_to: int,
    network: Callable,
    data: Callable,
    tmp_path: Path,
) -> None:
    module, plan = network(name, in_channels=shape[0], width_multiplier=width)
    before = copy.deepcopy(module.state_dict())
    settings = PruneSettings(
        macs_ratio=0.5,
        allocation=allocation,  # type: ignore[arg-type]
        importance="taylor",
        round_to=round_to,
    )
    made = prune(module, plan, settings, data(shape))
    pruned, narrowed = made.module, made.plan
    ratio = count_macs(pruned, shape) / count_macs(module, shape)
    coarse = 0.06 if name in ("resnet20", "pooled_resnet") else 0.015
    assert 0.5 - coarse <= ratio <= 0.5
    assert count_parameters(pruned) < count_parameters(module)
    for layer, kept in narrowed.widths.items():
        assert kept % round_to == 0 or kept == plan.widths[layer]
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())
    # through a file and back, in the network's own code, the outputs are the same
    save_checkpoint(tmp_path / "p.safetensors", Checkpoint(narrowed, dict(pruned.state_dict())))
    rebuilt = load_module(load_checkpoint(tmp_path / "p.safetensors"))
    images = torch.randn(2, *shape)
    with torch.no_grad():
        torch.testing.assert_close(rebuilt(images), pruned(images), rtol=0, atol=1e-5)


def test_given_widths(network: Callable, data: Callable) -> None:
    module, plan = network("resnet20", in_channels=1)
    widths = {"layer1.0.conv1": 5, "layer3.0.conv2": 40}
    settings = PruneSettings(allocation="per_layer", widths=widths, importance="l2")
    narrowed = prune(module, plan, settings, data(GREY)).plan
    expected = dict(plan.widths) | {"layer1.0.conv1": 5}
    expected |= dict.fromkeys(
        ("layer3.0.conv2", "layer3.0.downsample.0", "layer3.1.conv2", "layer3.2.conv2"), 40
    )
    assert narrowed == replace(plan, widths=expected)
    for wrong, message in (
        ({"layer1.0.conv1": 17}, "at most 16 channels in 'layer1.0.conv1', got 17"),
        ({"layer1.0.conv2": 8}, "name of a channel group, got 'layer1.0.conv2'"),
    ):
        with pytest.raises(UsageError, match=message):
            prune(module, plan, settings.replace(widths=wrong), data(GREY))


def test_given_widths_of_grouped_convolutions(network: Callable, data: Callable) -> None:
    module, plan = network("resnext50_32x4d", width_multiplier=0.5)
    settings = PruneSettings(
        allocation="per_layer", widths={"layer2.0.conv1": 40}, importance="bn_scale"
    )
    narrowed = prune(module, plan, settings, data(COLOUR, (2,))).plan
    assert narrowed.widths["layer2.0.conv2"] == 40
    assert narrowed.groups["layer2.0.conv2"] == 10
    with pytest.raises(UsageError, match=r"a multiple of 4 in 'layer2\.0\.conv1', got 42"):
        prune(module, plan, settings.replace(widths={"layer2.0.conv1": 42}), data(COLOUR, (2,)))


def test_excluded_groups_and_squeeze_gates_stay(network: Callable, data: Callable) -> None:
    module, plan = network("seresnet18", width_multiplier=0.5)
    settings = PruneSettings(importance="l1", ignored_groups=("conv1",), allocation="uniform")
    narrowed = prune(module, plan, settings, data(COLOUR, (2,))).plan
    assert narrowed.widths["conv1"] == plan.widths["conv1"]
    gates = [n for n in plan.widths if n.endswith("se.fc1")]
    assert all(narrowed.widths[n] == plan.widths[n] for n in gates)
    with pytest.raises(UsageError, match="got 'conv9'"):
        prune(module, plan, settings.replace(ignored_groups=("conv9",)), data(COLOUR, (2,)))


def test_a_channels_last_module_is_pruned_alike(network: Callable, data: Callable) -> None:
    module, _ = network("resnet20", in_channels=1)
    settings = PruneSettings(macs_ratio=0.5)
    plain = prune_module(module, settings, data(GREY))
    turned = module.to(memory_format=torch.channels_last)
    last = prune_module(turned, settings, data(GREY))
    assert last.kept == plain.kept
    images = torch.from_numpy(data(GREY)[0][0])
    torch.testing.assert_close(last.module(images), plain.module(images), rtol=1e-3, atol=1e-3)


def test_rounds_reach_the_same_budget_and_keep_the_floor(network: Callable, data: Callable) -> None:
    module, plan = network("resnet20", in_channels=1)
    settings = PruneSettings(macs_ratio=0.4, iterative_steps=3, round_to=4, min_share=0.5)
    seen: list[tuple[int, int]] = []
    made = prune(module, plan, settings, data(GREY), progress=lambda *step: seen.append(step))
    narrowed = made.plan
    assert 0.35 < count_macs(made.module, GREY) / count_macs(module, GREY) <= 0.4
    assert all(narrowed.widths[n] >= plan.widths[n] / 2 for n in plan.widths)
    assert seen == [(i, len(seen)) for i in range(1, len(seen) + 1)]
    layers = [m for m in module.modules() if isinstance(m, FITTED)]
    assert len(seen) == 3 * (2 + len(layers)) + 1  # batches looked at, layers fitted, the end


def test_kept_channels_are_the_best_ones(network: Callable, data: Callable) -> None:
    module, _ = network("resnet20", in_channels=1)
    settings = PruneSettings(
        allocation="per_layer",
        widths={"layer1.0.conv1": 4},
        importance="bn_scale",
        reconstruct=False,
    )
    result = prune_module(module, settings, data(GREY))
    best = module.layer1[0].bn1.weight.detach().abs().argsort(descending=True)[:4]
    assert result.kept["layer1.0.conv1"] == tuple(sorted(best.tolist()))
    assert result.kept["conv1"] == tuple(range(16))
    torch.testing.assert_close(
        result.module.layer1[0].conv1.weight, module.layer1[0].conv1.weight[best.sort().values]
    )
    assert result.macs_ratio == result.macs[1] / result.macs[0] < 1
    assert result.parameters[1] == count_parameters(result.module)


def test_budgets_that_cannot_be_met(network: Callable, data: Callable) -> None:
    module, plan = network("resnet20", in_channels=1)
    with pytest.raises(UsageError, match=r"at least 0\.\d+ of the cost, the floor, got .* 0\.010"):
        prune(module, plan, PruneSettings(macs_ratio=0.01), data(GREY))
    with pytest.raises(UsageError, match="Nothing can be pruned"):
        prune(module, plan, PruneSettings(round_to=64), data(GREY))
    one = nn.Sequential(nn.Conv2d(1, 1, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 5))
    with pytest.raises(UsageError, match="Nothing can be pruned"):
        prune_module(one, PruneSettings(round_to=1), data(GREY))


def test_a_refusal_changes_nothing(network: Callable, data: Callable) -> None:
    module, plan = network("resnet20", in_channels=1)
    module.layer2[1].conv1.weight = module.layer2[2].conv1.weight
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(ModelError, match=r"shared between 'layer2\.1\.conv1\.weight'"):
        prune(module, plan, PruneSettings(), data(GREY))
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())


def test_coupling_that_the_graph_cannot_see_is_caught(data: Callable) -> None:
    """A reshape that moves channels into the batch: no operation is odd, the outputs are."""

    class Folded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(1, 8, 3, padding=1)
            self.conv2 = nn.Conv2d(4, 8, 3, padding=1)
            self.fc = nn.Linear(16, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            n, _, h, w = x.shape
            y = self.conv2(self.conv1(x).relu().view(2 * n, 4, h, w))
            return self.fc(y.mean((2, 3)).view(n, 16))

    with pytest.raises((ModelError, UsageError)):
        prune_module(Folded(), PruneSettings(round_to=2, importance="l1"), data(GREY))


def test_a_graph_that_removes_something_else_is_caught(
    network: Callable, data: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, plan = network("resnet20", in_channels=1)
    remove = ChannelGraph.remove

    def shifted(graph: ChannelGraph, removed: dict[str, list[int]]) -> None:
        remove(graph, {name: [c - min(cs) for c in cs] for name, cs in removed.items() if cs})

    monkeypatch.setattr(ChannelGraph, "remove", shifted)
    with pytest.raises(ModelError, match="set to zero"):
        prune(module, plan, PruneSettings(importance="l1"), data(GREY))


def test_frozen_parameters_stay_frozen_and_no_images_are_refused(
    network: Callable, data: Callable
) -> None:
    module, plan = network("resnet20", in_channels=1)
    module.fc.weight.requires_grad_(False)
    result = prune_module(module, PruneSettings(), data(GREY))
    assert not result.module.fc.weight.requires_grad
    assert result.module.fc.bias.requires_grad
    with pytest.raises(DataError, match="Pruning needs images"):
        prune(module, plan, PruneSettings(), [])


def test_recalibration_gives_the_statistics_of_the_batches(
    network: Callable, data: Callable
) -> None:
    module, plan = network("resnet20", in_channels=1)
    batches = data(GREY, (8, 8))
    rebuilt = build_model(plan)
    rebuilt.load_state_dict(module.state_dict())
    rebuilt.bn1.num_batches_tracked += 1000  # a long training lies behind
    recalibrate(rebuilt, batches)
    with torch.no_grad():
        outputs = [rebuilt.conv1(torch.from_numpy(images)) for images, _ in batches]
    mean = torch.stack([o.mean((0, 2, 3)) for o in outputs]).mean(0)
    variance = torch.stack([o.var((0, 2, 3)) for o in outputs]).mean(0)
    torch.testing.assert_close(rebuilt.bn1.running_mean, mean)
    torch.testing.assert_close(rebuilt.bn1.running_var, variance)
    assert not rebuilt.training
    assert rebuilt.bn1.momentum == 0.1
    for name, parameter in rebuilt.named_parameters():
        assert torch.equal(parameter, module.get_parameter(name))
    again = copy.deepcopy(rebuilt.state_dict())
    with pytest.raises(DataError, match="no batch has two images"):
        recalibrate(rebuilt, [(images[:1], labels[:1]) for images, labels in batches])
    assert all(torch.equal(again[k], v) for k, v in rebuilt.state_dict().items())


def test_the_same_call_gives_the_same_network(network: Callable, data: Callable) -> None:
    module, plan = network("resnet20", in_channels=1)
    first = prune(module, plan, PruneSettings(), data(GREY)).module
    second = prune(module, plan, PruneSettings(), iter(data(GREY))).module
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])


def test_samples_limit_the_images(network: Callable, data: Callable) -> None:
    module, plan = network("resnet20", in_channels=1)
    many, few = data(GREY, (6, 6)), data(GREY, (6, 2))
    np.testing.assert_array_equal(many[1][0][:2], few[1][0])
    limited = prune(module, plan, PruneSettings(samples=8), many).module
    short = prune(module, plan, PruneSettings(), few).module
    assert torch.equal(limited.bn1.running_mean, short.bn1.running_mean)


class Padded(nn.Module):
    """Two convolutions with zeros between them, along the map or among the channels."""

    def __init__(self, sides: tuple[int, ...]) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3)
        self.second = nn.Conv2d(16 + sum(sides[4:]), 16, 3)
        self.last = nn.Linear(16, 5)
        self.sides = sides

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.pad(torch.clamp(self.first(x), 0, 6), self.sides)
        return self.last(self.second(x).mean((2, 3)))


def test_padding_of_the_map_is_pruned_through_and_of_channels_is_refused(data: Callable) -> None:
    settings = PruneSettings(macs_ratio=0.5, importance="l2", round_to=2)
    result = prune_module(Padded((0, 1, 0, 1)), settings, data((3, 12, 12), (4,)))
    assert len(result.kept["first"]) < 16
    with pytest.raises(ModelError, match="'ConstantPadNd' may mix"):
        prune_module(Padded((0, 0, 0, 0, 2, 2)), settings, data((3, 12, 12), (4,)))
