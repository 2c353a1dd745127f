"""Weights of the real torchvision, timm and transformers, where installed: equal logits."""

from __future__ import annotations

import importlib
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from edgeres.errors import ModelError
from edgeres.models.checkpoint import load_checkpoint, load_module
from edgeres.models.variant import Variant

pytestmark = pytest.mark.slow


@cache
def library(name: str) -> Any:
    """The library, or a skip with the reason.

    torchvision's operators are absent beside a CPU build of torch from elsewhere; two empty
    definitions let it, and timm on top of it, be imported.
    """
    fragment = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, operator):
            fragment.define(f"{operator}(Tensor boxes, Tensor scores, float threshold) -> Tensor")
    try:
        return importlib.import_module(name)
    except ImportError as error:
        pytest.skip(f"{name} is not installed here ({error})")


def check(
    module: torch.nn.Module, architecture: str, tmp_path: Path, variant: Variant | None = None
) -> None:
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(part.running_mean, -0.2, 0.2)
            torch.nn.init.uniform_(part.running_var, 0.5, 1.5)
            torch.nn.init.uniform_(part.weight, 0.5, 1.0)
    torch.save(module.state_dict(), tmp_path / "w.pth")
    loaded = load_checkpoint(tmp_path / "w.pth")
    assert loaded.plan.architecture == architecture
    assert loaded.plan.variant == (variant or Variant())
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        theirs = module.eval()(images)
        theirs = getattr(theirs, "logits", theirs)
        ours = load_module(loaded)(images)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2"])
def test_torchvision(name: str, tmp_path: Path) -> None:
    models = library("torchvision").models
    check(getattr(models, name)(num_classes=11), name, tmp_path)


@pytest.mark.parametrize("name", ["resnet18", "resnet34d", "resnet50d", "seresnet50"])
@pytest.mark.filterwarnings("ignore")  # theirs, on import
def test_timm(name: str, tmp_path: Path) -> None:
    timm = library("timm")
    check(timm.create_model(name, num_classes=11), name, tmp_path)


@pytest.mark.parametrize(
    ("name", "arguments", "base", "variant"),
    [
        ("resnet50", {"output_stride": 8}, "resnet50", Variant(output_stride=8)),
        ("resnet18", {"output_stride": 16}, "resnet18", Variant(output_stride=16)),
        ("resnetaa50", {}, "resnet50", Variant(antialias="average")),
        ("resnetaa34d", {}, "resnet34d", Variant(antialias="average")),
        (
            "resnetaa50",
            {"output_stride": 8},
            "resnet50",
            Variant(antialias="average", output_stride=8),
        ),
    ],
)
@pytest.mark.filterwarnings("ignore")  # theirs, on import
def test_relatives_of_timm(
    name: str, arguments: dict[str, Any], base: str, variant: Variant, tmp_path: Path
) -> None:
    timm = library("timm")
    config = {"architecture": name, "num_classes": 11, "model_args": arguments}
    (tmp_path / "config.json").write_text(json.dumps(config))
    check(timm.create_model(name, num_classes=11, **arguments), base, tmp_path, variant)


@pytest.mark.parametrize("name", ["resnetblur18", "resnetblur50"])
@pytest.mark.filterwarnings("ignore")  # theirs, on import
def test_blurred_timm_networks_are_refused(name: str, tmp_path: Path) -> None:
    module = library("timm").create_model(name, num_classes=11)
    torch.save({"arch": name, "state_dict": module.state_dict()}, tmp_path / "w.pth")
    with pytest.raises(ModelError, match=name):
        load_checkpoint(tmp_path / "w.pth")


@pytest.mark.parametrize("flags", [(False, True, True), (False, False, True), (True, True, True)])
def test_dilated_torchvision(flags: tuple[bool, ...], tmp_path: Path) -> None:
    models = library("torchvision").models
    stride = 32 >> sum(flags)
    arguments = {"replace_stride_with_dilation": list(flags)}
    (tmp_path / "config.json").write_text(
        json.dumps({"architecture": "resnet50", "model_args": arguments})
    )
    module = models.resnet50(num_classes=11, **arguments)
    check(module, "resnet50", tmp_path, Variant(output_stride=stride))


@pytest.mark.parametrize(
    ("name", "layer", "sizes"),
    [
        ("resnet18", "basic", [64, 128, 256, 512]),
        ("resnet50", "bottleneck", [256, 512, 1024, 2048]),
    ],
)
@pytest.mark.filterwarnings("ignore")  # theirs, on import
def test_transformers(name: str, layer: str, sizes: list[int], tmp_path: Path) -> None:
    transformers = library("transformers")
    depths = [2, 2, 2, 2] if layer == "basic" else [3, 4, 6, 3]
    config = transformers.ResNetConfig(
        layer_type=layer, depths=depths, hidden_sizes=sizes, num_labels=11
    )
    check(transformers.ResNetForImageClassification(config), name, tmp_path)
