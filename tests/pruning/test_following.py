"""Networks of other tasks, as code makes them: pruned without labels, every output kept."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from edgeres.data.preprocess import Preprocess
from edgeres.errors import UsageError
from edgeres.modules.spec import code_spec
from edgeres.pruning.groups import ChannelGraph
from edgeres.pruning.of_code import prune_code
from edgeres.pruning.signals import gate_derivatives
from edgeres.recipe.prune import PruneSettings

SHAPE = (3, 8, 8)
BLOCK = Path(__file__).parents[1] / "convert" / "throwaway" / "code_network.py"
NETWORK = """

class Three(nn.Module):
    def __init__(self, width=16):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.one, self.two = Block(width), Block(width)
        self.age, self.mask = nn.Linear(width, 1), nn.Conv2d(width, 2, 1)

    def forward(self, x):
        y = self.two(self.one(self.stem(x)))
        features = y.mean((2, 3))
        return {"age": self.age(features), "mask": self.mask(y), "features": features}


def build_three():
    torch.manual_seed(0)
    return Three().train()
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "net.py").write_text(BLOCK.read_text() + NETWORK)
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 60, (192, 8, 8, 3)) + rng.integers(0, 190, (192, 1, 1, 3))
    np.savez(tmp_path / "t.npz", images=pixels.astype(np.uint8))
    return tmp_path


def network(place: Path) -> nn.Module:
    spec = importlib.util.spec_from_file_location("three_outputs", place / "net.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    built: nn.Module = module.build_three().eval()
    return built


def prune(place: Path, **changes: Any) -> dict[str, str]:
    settings = {"macs_ratio": 0.6, "round_to": 4, "samples": 64, **changes}
    spec = code_spec(f"{place / 'net.py'}:build_three", None)
    return prune_code(
        spec, place / "x.onnx", place / "w.safetensors",
        settings=PruneSettings(**settings), train_data=f"npz:{place / 't.npz'}",
        preprocess=Preprocess(scale=0.01), sample_shape=SHAPE, work=place / "work", classes=False,
    )  # fmt: skip


def test_what_removal_does_to_all_outputs_is_its_importance(place: Path) -> None:
    """The mean square of the derivatives ranks channels as removing each of them does."""
    module = network(place)
    graph = ChannelGraph(module, SHAPE)
    images = np.random.default_rng(0).standard_normal((512, *SHAPE)).astype(np.float32)
    found = gate_derivatives(module, graph.groups, [(images, np.full(512, -1, np.int64))])
    inner = next(name for name in found if "one.conv1" in name)
    scores = found[inner].square().mean(dim=0)
    norm = module.get_submodule("one.bn1")
    damage = []
    with torch.no_grad():
        whole = module(torch.from_numpy(images))
        for channel in range(16):
            kept = norm.weight[channel].item(), norm.bias[channel].item()
            norm.weight[channel] = norm.bias[channel] = 0.0
            cut = module(torch.from_numpy(images))
            norm.weight[channel], norm.bias[channel] = kept
            damage.append(
                sum(float((cut[n] - v).square().sum() / v.square().sum()) for n, v in whole.items())
            )
    ranks = [np.argsort(np.argsort(values)) for values in (scores.numpy(), damage)]
    assert np.corrcoef(*ranks)[0, 1] > 0.7


def test_every_output_stays_and_comes_nearer_without_labels(place: Path) -> None:
    told = prune(place, finetune={"epochs": 3, "held_out": 48, "batch_size": 32, "flip": False})
    assert 0.3 < float(told["macs_ratio"]) <= 0.65
    levels = float(told["held_out_sqnr_db"])
    assert "held_out_top1" not in told
    graph = onnx.load(place / "x.onnx").graph
    names = [value.name for value in graph.output]
    assert names == ["age", "mask", "features"]
    widths = [value.type.tensor_type.shape.dim[1].dim_value for value in graph.output]
    assert widths == [1, 2, 16]  # an output is not narrowed
    assert levels > 10


def test_what_learns_classes_is_refused(place: Path) -> None:
    with pytest.raises(UsageError, match=r"distill: false` learns classes; this network has none"):
        prune(place, finetune={"epochs": 1, "distill": False})
