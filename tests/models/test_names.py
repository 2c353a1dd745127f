"""Names of other libraries' ResNets, through stored key lists and, where installed, for real."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from edgeres.errors import ModelError
from edgeres.models.architecture import infer_plan
from edgeres.models.build import build_model
from edgeres.models.names import canonical_name, canonical_names
from edgeres.models.plan import plan_for

FIXTURES = Path(__file__).parent / "fixtures"


def stored_shapes(name: str) -> dict[str, tuple[int, ...]]:
    content = json.loads((FIXTURES / f"{name}.json").read_text(encoding="utf-8"))
    return {key: tuple(shape) for key, shape in content["shapes"].items()}


@pytest.mark.parametrize(
    ("fixture", "architecture"),
    [
        ("timm_resnet18", "resnet18"),
        ("timm_resnet50", "resnet50"),
        ("timm_resnet50d", "resnet50d"),
        ("timm_resnext50_32x4d", "resnext50_32x4d"),
        ("timm_seresnet50", "seresnet50"),
        ("torchvision_resnet34", "resnet34"),
        ("torchvision_wide_resnet50_2", "wide_resnet50_2"),
        ("transformers_resnet-18", "resnet18"),
        ("transformers_resnet-50", "resnet50"),
    ],
)
def test_stored_key_lists_become_our_networks(fixture: str, architecture: str) -> None:
    shapes = stored_shapes(fixture)
    names = canonical_names(shapes, source=fixture)
    ours = {ours: shapes[theirs] for ours, theirs in names.items()}
    plan = infer_plan(ours, source=fixture)
    assert plan == plan_for(architecture, num_classes=1000)
    with torch.device("meta"):
        expected = build_model(plan).state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in expected.items()} == ours


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("module.conv1.weight", "conv1.weight"),
        ("_orig_mod.module.model.backbone.layer1.0.bn1.bias", "layer1.0.bn1.bias"),
        ("resnet.encoder.stages.2.layers.10.layer.0.convolution.weight", "layer3.10.conv1.weight"),
        ("module.resnet.embedder.embedder.normalization.running_var", "bn1.running_var"),
        (
            "resnet.encoder.stages.3.layers.0.shortcut.normalization.bias",
            "layer4.0.downsample.1.bias",
        ),
        ("classifier.1.bias", "fc.bias"),
        ("backbone.head.fc.weight", "fc.weight"),
        ("linear.weight", "fc.weight"),
        ("layer2.0.shortcut.1.running_mean", "layer2.0.downsample.1.running_mean"),
        ("layer1.0.se.fc1.weight", "layer1.0.se.fc1.weight"),
        ("layer1.0.conv1.total_ops", None),
        ("n_averaged", None),
        # SENet of timm's legacy models computes something else: left alone, so it is refused
        ("layer1.0.se_module.fc1.weight", "layer1.0.se_module.fc1.weight"),
        ("last_linear.weight", "fc.weight"),
    ],
)
def test_single_names(theirs: str, ours: str | None) -> None:
    assert canonical_name(theirs) == ours


def test_two_networks_in_one_file_are_refused() -> None:
    with pytest.raises(
        ModelError, match=r"both 'model\.conv1\.weight' and 'backbone\.conv1\.weight'"
    ):
        canonical_names(["model.conv1.weight", "backbone.conv1.weight"], source="both.pt")
