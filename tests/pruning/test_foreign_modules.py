"""Networks of torchvision and timm given as modules: pruned without a plan."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from edgeres.errors import ModelError
from edgeres.exporting.to_onnx import export_onnx
from edgeres.layer_latency.shapes import network_layers
from edgeres.models.cost import count_macs
from edgeres.pruning.prune import prune_module
from edgeres.recipe.prune import PruneSettings

from .test_latency_cost import model_of

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@cache
def library(name: str) -> Any:
    """The library, or a skip with the reason; see tests/models/test_foreign_models.py."""
    fragment = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, operator):
            fragment.define(f"{operator}(Tensor boxes, Tensor scores, float threshold) -> Tensor")
    try:
        return importlib.import_module(name)
    except ImportError as error:
        pytest.skip(f"{name} is not installed here ({error})")


def halve(module: nn.Module, data: Callable) -> None:
    shape = (3, 64, 64)
    settings = PruneSettings(macs_ratio=0.5, importance="taylor")
    result = prune_module(module, settings, data(shape, (4,)))
    assert 0.48 < result.macs_ratio <= 0.5
    assert count_macs(result.module, shape) == result.macs[1]
    assert type(result.module) is type(module)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnext50_32x4d"])
def test_torchvision(name: str, data: Callable) -> None:
    halve(getattr(library("torchvision").models, name)(num_classes=5), data)


def test_a_refusal_leaves_the_module_as_it_was(data: Callable) -> None:
    module = library("torchvision").models.resnet18(num_classes=5).train()
    module.layer3[1].conv2.weight = module.layer3[1].conv1.weight
    before = {name: value.clone() for name, value in module.state_dict().items()}
    classes = [type(part) for part in module.modules()]
    with pytest.raises(ModelError, match=r"layer3\.1\.conv1\.weight.*layer3\.1\.conv2\.weight"):
        prune_module(module, PruneSettings(), data((3, 64, 64), (4,)))
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert classes == [type(part) for part in module.modules()]
    assert module.training


def test_torchvision_by_latency(data: Callable, tmp_path: Path) -> None:
    """Layers are found by the names that the export keeps."""
    module = library("torchvision").models.resnet18(num_classes=5)
    shape = (3, 64, 64)
    export_onnx(module.eval(), shape, tmp_path / "net.onnx")
    latency = model_of(network_layers(tmp_path / "net.onnx"))
    settings = PruneSettings(
        allocation="latency", target_latency=0.5, importance="l1", normalization="mean"
    )
    result = prune_module(module, settings, data(shape, (4,)), latency=latency)
    assert result.latency_ms is not None
    assert 0.45 < result.latency_ms[1] / result.latency_ms[0] <= 0.5
    with torch.no_grad():
        assert result.module(torch.zeros(1, *shape)).shape == (1, 5)


@pytest.mark.parametrize("name", ["resnet18", "resnet50d", "seresnet50", "resnetaa50"])
def test_timm(name: str, data: Callable) -> None:
    halve(library("timm").create_model(name, num_classes=5), data)


@pytest.mark.parametrize(
    ("name", "message"),
    [("res2net50_26w_4s", "Split|Cat"), ("skresnet18", "may mix"), ("resnet50_gn", "GroupNorm")],
)
def test_what_cannot_be_pruned_is_named(name: str, message: str, data: Callable) -> None:
    module = library("timm").create_model(name, num_classes=5)
    with pytest.raises(ModelError, match=message):
        prune_module(module, PruneSettings(), data((3, 64, 64), (4,)))
