"""Fusions are counted from what the engine's layers name."""

from __future__ import annotations

import pytest

from edgeres.backends.base import LayerInfo
from edgeres.evaluation.fusions import Fusions, count_fusions
from edgeres.evaluation.gates import fusion_check
from edgeres.recipe.gates import Limits

OPS = {
    **dict.fromkeys(("conv1", "conv2", "fc"), "Conv"),
    **dict.fromkeys(("add1", "add2", "add3"), "Add"),
    **dict.fromkeys(("relu1", "relu2", "relu3"), "Relu"),
    "cast": "Cast",
}


def layer(*nodes: str) -> LayerInfo:
    return LayerInfo(nodes[0], "op", "int8", nodes)


def test_each_addition_counts_once_where_it_runs() -> None:
    layers = [
        layer("conv1", "add1", "relu1"),
        layer("conv2", "relu2"),
        layer("add2", "relu3"),
        layer("add3", "cast"),  # a change of type is no company
        layer("add1", "relu1"),  # a part of it is named once more
    ]
    assert count_fusions(layers, OPS) == Fusions(
        adds=3,
        adds_in_products=1,
        adds_in_kernels=1,
        relus=3,
        relus_in_products=2,
        conv_add_relu=1,
    )


@pytest.mark.parametrize(("minimum", "outcome"), [(0.3, "pass"), (0.5, "fail")])
def test_the_gate(minimum: float, outcome: str) -> None:
    check = fusion_check(Fusions(adds=3, adds_in_products=1), minimum)
    assert (check.outcome, check.limit) == (outcome, minimum)
    assert "1 of 3 additions" in check.reason
    assert fusion_check(Fusions(), 1.0).outcome == "pass"
    assert Limits(min_fused_adds=minimum).min_fused_adds == minimum
