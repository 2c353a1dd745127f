"""Networks of torchvision and timm given as modules: pruned without a plan."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

from edgeres.errors import ModelError
from edgeres.models.cost import count_macs
from edgeres.pruning.prune import prune_module
from edgeres.pruning.settings import PruneSettings

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
