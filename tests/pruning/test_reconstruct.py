"""Reconstruction makes up for removed channels; what it cannot follow, it refuses."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from edgeres.data.batches import batches
from edgeres.data.source import open_dataset
from edgeres.errors import ModelError
from edgeres.models.checkpoint import load_checkpoint, load_module
from edgeres.pruning import reconstruct as reconstruction
from edgeres.pruning.groups import ChannelGraph
from edgeres.pruning.least_squares import LeastSquares
from edgeres.pruning.prune import prune_module
from edgeres.pruning.reconstruct import reconstruct
from edgeres.pruning.signals import Batch
from edgeres.recipe.prune import PruneSettings
from edgeres.system.assets import asset_path


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False),
        nn.Conv2d(4, 6, 3, padding=2, dilation=2, groups=2),
        nn.Conv2d(4, 4, 3, padding="same", groups=4),
        nn.Conv2d(4, 6, (1, 3), padding=(0, 1), padding_mode="reflect"),
        nn.Conv2d(4, 6, 2, stride=(1, 2)),
        nn.Linear(12, 5),
    ],
    ids=str,
)
def test_least_squares_finds_the_weights_that_made_the_outputs(layer: nn.Module) -> None:
    torch.manual_seed(0)
    other = copy.deepcopy(layer)
    shape = (12,) if isinstance(layer, nn.Linear) else (4, 9, 8)
    squares = LeastSquares(layer)  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(0)
        for _ in range(4):
            inputs = torch.randn(512 if len(shape) == 1 else 32, *shape) + 0.5
            squares.add(inputs, other(inputs))
        found = squares.solve(centred=other.bias is not None)
        distance = (found.weight - other.weight.double()).abs().max() / other.weight.abs().max()
    assert float(distance) < 0.02
    if other.bias is not None:
        assert torch.allclose(
            (found.wanted_mean - found.mean).float(),
            other.bias,
            atol=0.02 * float(found.weight.abs().max()),
        )


class Residual(nn.Module):
    """Two blocks, with the stream's normalization before the sum or behind it."""

    def __init__(self, *, before: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.first = nn.ModuleList(nn.Conv2d(16, 12, 3, padding=1, bias=False) for _ in range(2))
        self.between = nn.ModuleList(nn.BatchNorm2d(12) for _ in range(2))
        self.second = nn.ModuleList(nn.Conv2d(12, 16, 3, padding=1, bias=False) for _ in range(2))
        self.behind = nn.ModuleList(nn.BatchNorm2d(16) for _ in range(2))
        self.head = nn.Linear(16, 5)
        self.before = before

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        for first, between, second, behind in zip(
            self.first, self.between, self.second, self.behind, strict=True
        ):
            y = second(torch.relu(between(first(x))))
            x = torch.relu(x + behind(y)) if self.before else behind(x + y)
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("before", [True, False])
def test_channels_that_say_the_same_twice_are_not_missed(
    before: bool, data: Callable[..., list[Batch]]
) -> None:
    """Each stream and each inner tensor holds every channel twice: half of them tell all."""
    torch.manual_seed(0)
    dense = Residual(before=before).eval()
    batch = data((3, 12, 12), (24, 24))
    with torch.no_grad():
        for layer in (dense.stem, *dense.first, *dense.second):
            layer.weight[1::2] = layer.weight[::2]
        dense.train()
        for images, _ in batch:
            dense(torch.from_numpy(images))
        dense.eval()
    graph = ChannelGraph(copy.deepcopy(dense), (3, 12, 12))
    groups = graph.groups
    removed = {group.name: list(range(1, group.channels, 2)) for group in groups}
    kept = {group.name: tuple(range(0, group.channels, 2)) for group in groups}
    graph.remove(removed)
    images = torch.from_numpy(data((3, 12, 12), (30,))[0][0])
    with torch.no_grad():
        expected = dense(images)
        cut = graph.module.eval()(images)
        reconstruct(graph.module, dense, groups, kept, batch)
        got = graph.module(images)
    assert float((cut - expected).norm()) > 0.1 * float(expected.norm())
    assert float((got - expected).norm()) < 0.02 * float(expected.norm())


@pytest.fixture(scope="module")
def reference() -> tuple[nn.Module, list[Batch], list[Batch]]:
    checkpoint = load_checkpoint(asset_path("recipes", "checkpoints/fmnist_resnet20.safetensors"))
    assert checkpoint.preprocess is not None
    calibration = open_dataset("fashion-mnist", split="calibration")
    test = open_dataset("fashion-mnist", split="validation")
    some = np.arange(0, len(test), 10)
    return (
        load_module(checkpoint),
        list(batches(calibration, checkpoint.preprocess, 64, indices=np.arange(256))),
        list(batches(test, checkpoint.preprocess, 250, indices=some)),
    )


def top1(module: nn.Module, test: list[Batch]) -> float:
    with torch.no_grad():
        right = [
            (module(torch.from_numpy(images)).argmax(1).numpy() == labels).sum()
            for images, labels in test
        ]
    return float(sum(right)) / sum(len(labels) for _, labels in test)


def lost(module: nn.Module, dense: nn.Module, test: list[Batch]) -> float:
    """Mean squared distance of the logits from the dense network's."""
    with torch.no_grad():
        images = [torch.from_numpy(images) for images, _ in test]
        return float(sum(((module(i) - dense(i)) ** 2).mean() for i in images))


@pytest.mark.slow
def test_half_of_the_work_costs_little_without_any_training(
    reference: tuple[nn.Module, list[Batch], list[Batch]], monkeypatch: pytest.MonkeyPatch
) -> None:
    module, data, test = reference
    settings = {"importance": "l2", "macs_ratio": 0.5, "finetune": None}
    plain = prune_module(module, PruneSettings(**settings, reconstruct=False), data)
    fitted = prune_module(module, PruneSettings(**settings), data)
    assert fitted.kept == plain.kept
    assert top1(fitted.module, test) > top1(plain.module, test) + 0.03
    assert top1(fitted.module, test) > top1(module, test) - 0.08
    # What the other part of the stream lacks is made up for, and that helps.
    monkeypatch.setattr(reconstruction._Fitting, "_stream_error", lambda *_: None)
    alone = prune_module(module, PruneSettings(**settings), data)
    assert lost(fitted.module, module, test) < 0.9 * lost(alone.module, module, test)


def test_code_that_chooses_by_values_is_refused(data: Callable[..., list[Batch]]) -> None:
    class Choosing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x) if float(x.mean()) > 0 else self.conv(-x)

    module = Choosing()
    with pytest.raises(ModelError, match="cannot be followed"):
        reconstruct(module, copy.deepcopy(module), [], {}, data((3, 8, 8)))


def test_such_a_network_is_pruned_all_the_same_and_it_is_said(
    network: Callable[..., tuple[nn.Module, object]], data: Callable[..., list[Batch]]
) -> None:
    class Choosing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside, _ = network("resnet20", in_channels=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inside(x) if float(x.sum()) < 1e30 else self.inside(-x)

    settings = PruneSettings(importance="l2", finetune=None)
    with pytest.warns(UserWarning, match="not reconstructed: .* cannot be followed"):
        result = prune_module(Choosing().eval(), settings, data((1, 28, 28)))
    assert result.macs_ratio <= 0.5
