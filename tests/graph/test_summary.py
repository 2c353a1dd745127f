"""Multiply-adds, parameters and interface of hand-made ONNX files with known counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeres.errors import ModelError
from edgeres.graph.summary import node_macs, summarize


def small_model(*, batch: int | str = "N", height: int | str = 8) -> onnx.ModelProto:
    weights = {
        "conv.weight": np.ones((6, 2, 3, 3), np.float32),
        "conv.bias": np.ones(6, np.float32),
        "fc.weight": np.ones((5, 6), np.float32),
    }
    nodes = [
        helper.make_node(
            "Conv",
            ["image", "conv.weight", "conv.bias"],
            ["a"],
            name="conv",
            group=2,
            strides=[2, 2],
            pads=[1, 1, 1, 1],
        ),
        helper.make_node("GlobalAveragePool", ["a"], ["b"], name="pool"),
        helper.make_node("Flatten", ["b"], ["c"], name="flat"),
        helper.make_node("Gemm", ["c", "fc.weight"], ["logits"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 4, height, 10])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 5])],
        [numpy_helper.from_array(v, k) for k, v in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])


@pytest.mark.parametrize("batch", ["N", 1, 8])
def test_counts_for_one_sample(tmp_path: Path, batch: int | str) -> None:
    path = tmp_path / "small.onnx"
    onnx.save(small_model(batch=batch), path)
    # Output 6 x 4 x 5, 2 x 3 x 3 products each; a node without a name goes by its output.
    assert node_macs(path) == {"conv": 6 * 4 * 5 * 18, "logits": 5 * 6}
    summary = summarize(path)
    assert summary.macs == 6 * 4 * 5 * 18 + 30
    assert summary.parameters == 6 * 18 + 6 + 30
    assert summary.opset == 20
    expected = None if batch == "N" else batch
    assert summary.inputs[0].name == "image"
    assert summary.inputs[0].shape == (expected, 4, 8, 10)
    assert summary.inputs[0].dtype == "float32"
    assert summary.outputs[0].shape == (expected, 5)


def test_unknown_height_is_named(tmp_path: Path) -> None:
    path = tmp_path / "small.onnx"
    onnx.save(small_model(height="H"), path)
    with pytest.raises(ModelError, match="'image' at node 'conv'"):
        node_macs(path)


@pytest.mark.parametrize("content", [b"", b"not a model at all", None])
def test_no_model_is_one_clear_error(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "bad.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match="Expected an ONNX model at"):
        summarize(path)
