"""INT8 coverage: a share of multiply-adds, never flattered by gaps in an engine's report."""

from __future__ import annotations

import json

import pytest

from edgeres.backends.base import LayerInfo
from edgeres.errors import ModelError
from edgeres.evaluation.coverage import int8_coverage

MACS = {"stem": 100, "block": 700, "head": 200}


def layer(name: str, precision: str, *nodes: str, op: str = "Conv") -> LayerInfo:
    return LayerInfo(name=name, op=op, precision=precision, nodes=nodes)


def test_share_of_macs_not_of_layers() -> None:
    coverage = int8_coverage(
        MACS,
        [
            layer("a", "int8", "stem"),
            layer("b", "int8", "block", "relu"),
            layer("c", "float32", "head", op="Gemm"),
            layer("pool", "float32", "pool"),
        ],
    )
    assert coverage.int8_coverage == pytest.approx(0.8)
    assert [f.name for f in coverage.float_layers] == ["head"]
    assert coverage.float_layers[0].reason == "the engine runs c (Gemm) in float32"
    assert json.loads(json.dumps(coverage.to_dict()))["float_layers"][0]["macs"] == 200


def test_what_the_engine_does_not_mention_is_not_int8() -> None:
    coverage = int8_coverage(MACS, [layer("a", "int8", "block")])
    assert coverage.int8_coverage == pytest.approx(0.7)
    assert [(f.name, f.precision) for f in coverage.float_layers] == [
        ("head", "unknown"),
        ("stem", "unknown"),
    ]


def test_several_layers_for_one_node_must_all_be_int8() -> None:
    layers = [layer("a", "int8", "block"), layer("b", "float16", "block")]
    assert int8_coverage({"block": 1}, layers).int8_coverage == 0.0
    layers = [layer("a", "int8", "block"), layer("b", "uint8", "block")]
    assert int8_coverage({"block": 1}, layers).int8_coverage == 1.0


def test_a_layer_without_nodes_stands_for_its_own_name() -> None:
    assert int8_coverage({"conv1": 5}, [layer("conv1", "int8")]).int8_coverage == 1.0


def test_nothing_to_weigh_is_an_error() -> None:
    with pytest.raises(ModelError, match="convolutions"):
        int8_coverage({}, [layer("a", "int8", "x")])
