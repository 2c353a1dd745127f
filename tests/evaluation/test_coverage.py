"""INT8 coverage and the multiply-adds that weigh it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeres.backends.base import LayerInfo
from edgeres.errors import ModelError
from edgeres.evaluation.coverage import int8_coverage
from edgeres.evaluation.macs import macs_by_node

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


def model(*, quantized: bool, height: int | str = 8) -> onnx.ModelProto:
    """Two convolutions (one grouped, stride 2) and a Gemm, with or without Q/DQ weights."""

    def weight(name: str, shape: tuple[int, ...]) -> list[onnx.NodeProto]:
        kind = np.int8 if quantized else np.float32
        stored = f"{name}_q" if quantized else name
        constants.append(numpy_helper.from_array(np.ones(shape, dtype=kind), stored))
        if not quantized:
            return []
        return [helper.make_node("DequantizeLinear", [stored, "one"], [name], name=f"dq_{name}")]

    constants = [numpy_helper.from_array(np.float32(1), "one")]
    nodes = [
        *weight("w1", (8, 2, 3, 3)),
        *weight("w2", (8, 4, 3, 3)),
        *weight("w3", (5, 8)),
        helper.make_node("Conv", ["x", "w1"], ["c1"], name="stem", pads=[1, 1, 1, 1]),
        helper.make_node(
            "Conv", ["c1", "w2"], ["c2"], name="block", pads=[1] * 4, strides=[2, 2], group=2
        ),
        helper.make_node("GlobalAveragePool", ["c2"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="flat"),
        helper.make_node("Gemm", ["f", "w3"], ["y"], name="head", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2, height, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 5])],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize("quantized", [False, True])
def test_macs_by_hand(tmp_path: Path, quantized: bool) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(model(quantized=quantized), path)
    assert macs_by_node(path) == {
        "stem": 8 * 8 * 8 * (2 * 9),
        "block": 8 * 4 * 4 * (4 * 9),
        "head": 5 * 8,
    }


def test_unknown_sizes_are_told(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(model(quantized=False, height="H"), path)
    with pytest.raises(ModelError, match="output size of stem"):
        macs_by_node(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(b"\xff\xfe not a model")
    with pytest.raises(ModelError, match="cannot be read"):
        macs_by_node(path)
    with pytest.raises(ModelError, match="cannot be read"):
        macs_by_node(tmp_path / "none.onnx")
