"""The ONNX file as a torch module: every operator gives what ONNX Runtime gives."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from edgeres.errors import ModelError
from edgeres.graph.layers import load_model
from edgeres.graph.session import open_session
from edgeres.training.onnx_network import OnnxNetwork
from edgeres.training.onnx_ops import OPERATORS

_RANDOM = np.random.default_rng(0)
_KERNEL = _RANDOM.standard_normal((6, 4, 3, 3)).astype(np.float32)
_GROUPED = _RANDOM.standard_normal((8, 2, 3, 2)).astype(np.float32)
_BIAS = _RANDOM.standard_normal(6).astype(np.float32)
_DENSE = _RANDOM.standard_normal((4 * 9 * 9, 5)).astype(np.float32)
_IDS = np.array([0, -1], np.int64)
_AXES = np.array([2, 3], np.int64)

CASES: list[tuple[str, Sequence[np.ndarray], dict[str, object]]] = [
    ("Conv", [_KERNEL, _BIAS], {"kernel_shape": [3, 3], "pads": [1, 0, 2, 1], "strides": [2, 1]}),
    ("Conv", [_GROUPED], {"kernel_shape": [3, 2], "group": 2, "dilations": [2, 3]}),
    ("MaxPool", [], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4}),
    ("MaxPool", [], {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}),
    ("MaxPool", [], {"kernel_shape": [2, 2], "pads": [0, 1, 1, 0]}),
    ("AveragePool", [], {"kernel_shape": [3, 3], "pads": [1] * 4, "strides": [2, 2]}),
    ("AveragePool", [], {"kernel_shape": [2, 2], "pads": [0, 0, 1, 1], "count_include_pad": 1}),
    ("GlobalAveragePool", [], {}),
    ("ReduceMean", [_AXES], {"keepdims": 0}),
    ("Clip", [np.float32(-0.3), np.float32(0.8)], {}),
    ("Relu", [], {}),
    ("Sigmoid", [], {}),
    ("HardSigmoid", [], {"alpha": 0.17}),
    ("HardSwish", [], {}),
    ("LeakyRelu", [], {"alpha": 0.2}),
    ("Tanh", [], {}),
    ("Add", [np.float32([[[[1.5]]]])], {}),
    ("Sub", [np.float32(0.5)], {}),
    ("Mul", [np.float32([2.5])], {}),
    ("Div", [np.float32([2.5])], {}),
    ("Reshape", [_IDS], {}),
    ("Transpose", [], {"perm": [0, 2, 3, 1]}),
    ("Unsqueeze", [np.array([2], np.int64)], {}),
    ("Unsqueeze", [np.array([-1, 1], np.int64)], {}),
    ("Identity", [], {}),
    ("Dropout", [], {}),
    ("Softmax", [], {"axis": 1}),
    ("Pad", [np.array([0, 0, 1, 0, 0, 0, 2, 3], np.int64), np.float32(0.7)], {}),
    ("Pad", [np.array([0, 1, 0, 0, 0, 0, 0, 1], np.int64)], {"mode": "constant"}),
    ("Concat", [np.ones((3, 4, 9, 9), np.float32)], {"axis": 0}),
]  # fmt: skip
DENSE = [
    ("Gemm", [_DENSE], {}),
    ("Gemm", [_DENSE.T.copy(), _BIAS[:5]], {"transB": 1, "alpha": 0.5, "beta": 2.0}),
    ("MatMul", [_DENSE], {}),
]


def model(path: Path, nodes: list[onnx.NodeProto], constants: Sequence[np.ndarray]) -> Path:
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 4, 9, 9])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(c), f"c{i}") for i, c in enumerate(constants)],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(onnx.shape_inference.infer_shapes(proto), path)
    return path


def compare(path: Path) -> None:
    images = np.random.default_rng(1).standard_normal((3, 4, 9, 9)).astype(np.float32)
    session = open_session(path.read_bytes(), threads=1, optimize=False)
    expected = session.run(None, {"input": images})[0]
    with torch.no_grad():
        found = OnnxNetwork(load_model(path).graph).eval()(torch.from_numpy(images)).numpy()
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize(("op", "constants", "attributes"), CASES)
def test_operator(
    tmp_path: Path, op: str, constants: Sequence[np.ndarray], attributes: dict[str, object]
) -> None:
    names = ["input", *(f"c{i}" for i in range(len(constants)))]
    node = helper.make_node(op, names, ["out"], name="node", **attributes)
    compare(model(tmp_path / "m.onnx", [node], constants))


@pytest.mark.parametrize(("op", "constants", "attributes"), DENSE)
def test_dense_operator(
    tmp_path: Path, op: str, constants: Sequence[np.ndarray], attributes: dict[str, object]
) -> None:
    names = ["flat", *(f"c{i}" for i in range(len(constants)))]
    nodes = [
        helper.make_node("Flatten", ["input"], ["flat"], name="flatten", axis=1),
        helper.make_node(op, names, ["out"], name="node", **attributes),
    ]
    compare(model(tmp_path / "m.onnx", nodes, constants))


@pytest.mark.parametrize("sizes", [None, [1, 3], [2, 2]])
def test_the_parts_of_a_split(tmp_path: Path, sizes: list[int] | None) -> None:
    constants = [] if sizes is None else [np.array(sizes, np.int64)]
    attributes = {"axis": 1} | ({"num_outputs": 2} if sizes is None else {})
    nodes = [
        helper.make_node(
            "Split", ["input", *["c0"] * len(constants)], ["a", "b"], "split", **attributes
        ),
        helper.make_node("Concat", ["b", "a"], ["out"], "turned", axis=1),
    ]
    compare(model(tmp_path / "m.onnx", nodes, constants))


def test_every_operator_is_tested() -> None:
    assert {op for op, *_ in (*CASES, *DENSE)} | {"Flatten", "Split"} == set(OPERATORS)


def test_unknown_operator_is_named(tmp_path: Path) -> None:
    node = helper.make_node("Erf", ["input"], ["out"], name="odd")
    path = model(tmp_path / "m.onnx", [node], [])
    with pytest.raises(ModelError, match=r"Erf.*odd"):
        OnnxNetwork(load_model(path).graph)


def test_channels_last_input_takes_the_images_of_training(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Transpose", ["input"], ["x"], name="nchw", perm=[0, 3, 1, 2]),
        helper.make_node("Relu", ["x"], ["out"], name="relu"),
    ]
    graph = load_model(model(tmp_path / "m.onnx", nodes, [])).graph
    images = torch.randn((2, 9, 4, 9))
    found = OnnxNetwork(graph, channels_last_input=True)(images)
    assert torch.equal(found, torch.relu(images))
