"""Every family of networks that edgeres builds exports to the normal form."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch

from edgeres.exporting.to_onnx import export_onnx
from edgeres.graph.summary import summarize
from edgeres.models.build import build_model
from edgeres.models.plan import ARCHITECTURES, plan_for

ALLOWED = {"Conv", "Relu", "Add", "GlobalAveragePool", "Flatten", "Gemm"}
EXTRA = {
    "resnet20": set(),
    "resnet18": {"MaxPool"},
    "resnet50": {"MaxPool"},
    "resnet18d": {"MaxPool", "AveragePool"},
    "resnet50d": {"MaxPool", "AveragePool"},
    "seresnet18": {"MaxPool", "Sigmoid", "Mul"},
    "seresnet50": {"MaxPool", "Sigmoid", "Mul"},
    "resnext50_32x4d": {"MaxPool"},
    "wide_resnet50_2": {"MaxPool"},
    "pooled_resnet": {"MaxPool"},
}
QUICK = ("pooled_resnet",)


def test_every_kind_of_architecture_is_here() -> None:
    def kind(name: str) -> tuple[object, ...]:
        a = ARCHITECTURES[name]
        return a.family, a.block, a.groups > 1, a.deep_stem, a.squeeze, a.base_width > 64

    # Networks over lines are images of one row, exported with lines alone: test_line_form.py.
    images = [name for name in ARCHITECTURES if not ARCHITECTURES[name].over_lines]
    assert {kind(name) for name in EXTRA} == {kind(name) for name in images}


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in EXTRA]
)
def test_family_exports_and_computes_the_same(name: str, tmp_path: Path, shake) -> None:
    torch.manual_seed(0)
    plan = plan_for(name, num_classes=7, width_multiplier=0.25)
    module = shake(build_model(plan))
    result = export_onnx(module, (3, 32, 32), tmp_path / f"{name}.onnx")
    assert result.parity.max_rel_error < 1e-5
    model = onnx.load(result.path)
    assert {node.op_type for node in model.graph.node} == ALLOWED | EXTRA[name]
    convolutions = {node.name for node in model.graph.node if node.op_type == "Conv"}
    assert convolutions == set(plan.widths)
    # Only normalizations went: two vectors a convolution came as one bias (and buffers as none).
    summary = summarize(result.path)
    layers = [m for m in module.modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear))]
    expected = sum(m.weight.numel() + m.weight.shape[0] for m in layers)
    assert summary.parameters == expected
    assert set(summary.macs_by_node) == convolutions | {"fc"}
