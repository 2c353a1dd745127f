"""A sample answer tells relatives apart, whatever their names and shapes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edgeres.errors import ModelError
from edgeres.models.build import build_model
from edgeres.models.checkpoint import load_checkpoint, load_module
from edgeres.models.plan import ChannelPlan, plan_for
from edgeres.models.variant import Variant

DEEP = plan_for("resnet50", num_classes=5, width_multiplier=0.125)
FLAT = plan_for("resnet18", num_classes=5, width_multiplier=0.125)
SMALL = plan_for("resnet20", num_classes=5)


def answered(plan: ChannelPlan, folder: Path) -> torch.nn.Module:
    """Weights without a word of what they are, and the network's own answers."""
    torch.manual_seed(1)
    module = build_model(plan)
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(part.running_mean, -0.2, 0.2)
            torch.nn.init.uniform_(part.running_var, 0.01, 0.1)
            torch.nn.init.uniform_(part.weight, 0.1, 0.3)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        outputs = module.eval()(images)
    torch.save(module.state_dict(), folder / "w.pth")
    np.savez(folder / "a.npz", inputs=images.numpy(), outputs=outputs.numpy())
    return module


@pytest.mark.parametrize(
    "plan",
    [
        DEEP,
        replace(DEEP, variant=Variant(output_stride=8)),
        replace(DEEP, variant=Variant(output_stride=16)),
        replace(DEEP, variant=Variant(antialias="average")),
        replace(DEEP, variant=Variant(stride_on="1x1")),
        replace(DEEP, variant=Variant(first_stage_stride=2)),
        replace(FLAT, variant=Variant(stem_stride=1, stem_pool="none")),
        replace(FLAT, variant=Variant(norm_epsilon=1e-3)),
        SMALL,
        replace(SMALL, variant=Variant(norm_epsilon=1e-3)),
    ],
    ids=lambda plan: f"{plan.architecture} {plan.variant}",
)
def test_the_relative_is_found(plan: ChannelPlan, tmp_path: Path) -> None:
    module = answered(plan, tmp_path)
    loaded = load_checkpoint(tmp_path / "w.pth", sample_answer=tmp_path / "a.npz")
    assert loaded.plan.variant == plan.variant
    assert not loaded.plan.assumed
    images = torch.randn(1, 3, 96, 96)
    torch.testing.assert_close(load_module(loaded)(images), module(images), rtol=1e-5, atol=1e-6)


def test_a_network_that_is_not_built_is_refused(tmp_path: Path) -> None:
    module = answered(DEEP, tmp_path)
    with np.load(tmp_path / "a.npz") as file:
        images = file["inputs"]
    for part in module.modules():
        for child, layer in part.named_children():
            if isinstance(layer, torch.nn.ReLU):
                setattr(part, child, torch.nn.SiLU())
    with torch.no_grad():
        outputs = module(torch.from_numpy(images))
    np.savez(tmp_path / "a.npz", inputs=images, outputs=outputs.numpy())
    with pytest.raises(ModelError, match=r"answers a\.npz otherwise than its own library"):
        load_checkpoint(tmp_path / "w.pth", sample_answer=tmp_path / "a.npz")


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    answered(SMALL, tmp_path)
    good = dict(np.load(tmp_path / "a.npz"))
    bad = [
        {"inputs": good["inputs"]},
        {**good, "outputs": good["outputs"][:, :3]},
        {**good, "inputs": np.zeros_like(good["inputs"])},
        {**good, "outputs": good["outputs"] * np.nan},
        {**good, "inputs": (good["inputs"] * 10).astype(np.uint8)},
    ]
    for content in bad:
        np.savez(tmp_path / "b.npz", **content)
        with pytest.raises(ModelError, match=r"b\.npz"):
            load_checkpoint(tmp_path / "w.pth", sample_answer=tmp_path / "b.npz")
    (tmp_path / "b.npz").write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(ModelError, match="no sample answer"):
        load_checkpoint(tmp_path / "w.pth", sample_answer=tmp_path / "b.npz")
