"""Q/DQ of other quantizers: what is exact is repaired and told, not one number changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from edgeres.backends import get_backend
from edgeres.backends.base import BuildConfig
from edgeres.backends.tensorrt.graph import index_graph
from edgeres.backends.tensorrt.lint import lint
from edgeres.backends.tensorrt.repair import repair

ACTIVATION = "layer1.0.relu1_out"
CONV = "layer1.0.conv2"

Run = Callable[[onnx.ModelProto, np.ndarray], np.ndarray]


def repaired(net: Any) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    result = repair(index_graph(net.model(), Path("net.onnx")), Path("net.onnx"))
    onnx.checker.check_model(result.graph.model, full_check=True)
    return result.graph.model, result.told


def int32_biases(net: Any) -> None:
    for conv in [node for node in net.nodes if node.op_type in {"Conv", "Gemm"}]:
        channels = len(net.constants[conv.input[2]])
        names = [f"{conv.name}_b", f"{conv.name}_b_scale"]
        random = np.random.default_rng(len(conv.name))
        net.constants[names[0]] = random.integers(-(2**20), 2**20, channels).astype(np.int32)
        net.constants[names[1]] = random.uniform(1e-7, 1e-6, channels).astype(np.float32)
        output = f"{conv.name}_bias"
        dequantizer = helper.make_node(
            "DequantizeLinear", names, [output], f"{conv.name}_b_dq", axis=0
        )
        net.nodes.insert(net.nodes.index(conv), dequantizer)
        conv.input[2] = output


def uint8_128(net: Any) -> None:
    for name in [name for name in net.constants if name.endswith("_zp")]:
        if net.constants[name].ndim == 0:
            net.constants[name] = np.uint8(128)


def asymmetric_weights(net: Any) -> None:
    stored = net.constants[f"{CONV}.weight_int8"]
    half = stored // 2  # so that the zero point leaves room
    zero = np.arange(-4, 4, dtype=np.int8)
    net.constants[f"{CONV}.weight_int8"] = half + zero[:, None, None, None]
    net.constants[f"{CONV}.weight_zp"] = zero


def uint8_weights(net: Any) -> None:
    stored = net.constants[f"{CONV}.weight_int8"].astype(np.int16)
    net.constants[f"{CONV}.weight_int8"] = (stored + 128).astype(np.uint8)
    net.constants[f"{CONV}.weight_zp"] = np.full(8, 128, np.uint8)


def scale_in_a_list(net: Any) -> None:
    net.constants[f"{ACTIVATION}_scale"] = net.constants[f"{ACTIVATION}_scale"].reshape(1)
    net.constants[f"{ACTIVATION}_zp"] = np.zeros(1, np.int8)


def clipped(low: float, high: float, zero: np.generic) -> Callable[[Any], None]:
    """The activation behind a Clip, with this zero point; its scale is 0.05."""

    def plant(net: Any) -> None:
        net.constants |= {"low": np.float32(low), "high": np.float32(high)}
        clip = helper.make_node("Clip", [ACTIVATION, "low", "high"], ["kept"], "clip")
        quantizer = net.node(f"{ACTIVATION}_q")
        net.nodes.insert(net.nodes.index(quantizer), clip)
        quantizer.input[0] = "kept"
        net.constants[f"{ACTIVATION}_zp"] = zero

    return plant


EXACT = [
    (int32_biases, "conv1_b_dq: the INT32 bias behind it is stored as float"),
    (uint8_128, "input_q: uint8 with zero point 128 became int8 with zero point 0"),
    (asymmetric_weights, f"{CONV}.weight_dq: its zero points are taken off the weights"),
    (uint8_weights, f"{CONV}.weight_dq: its zero points are taken off the weights"),
    (scale_in_a_list, f"{ACTIVATION}_q: its scale in a list of one became a plain number"),
    (clipped(0, 6, np.uint8(0)), f"{ACTIVATION}_q: uint8 with zero point 0 became int8"),
    (clipped(0, 5, np.int8(-100)), f"{ACTIVATION}_q: int8 with zero point -100 became int8"),
]


@pytest.mark.parametrize(("plant", "told"), EXACT, ids=lambda item: getattr(item, "__name__", ""))
def test_what_is_exact_is_repaired_told_and_changes_no_number(
    run: Run, qdq_net: Callable[..., Any], plant: Callable[[Any], None], told: str
) -> None:
    net = qdq_net()
    plant(net)
    feed = 3 * np.random.default_rng(0).standard_normal((8, 3, 16, 16)).astype(np.float32)
    assert any(f.fatal for f in lint(index_graph(net.model(), Path("net.onnx"))))
    before = net.model().SerializeToString(deterministic=True)
    model, lines = repaired(net)
    assert any(line.startswith(f"repaired: {told}") for line in lines)
    assert [f for f in lint(index_graph(model, Path("net.onnx"))) if f.fatal] == []
    assert np.array_equal(run(net.model(), feed), run(model, feed))
    assert net.model().SerializeToString(deterministic=True) == before


def uint8_behind_a_relu(net: Any) -> None:
    net.constants[f"{ACTIVATION}_zp"] = np.uint8(0)


def wide_weights(net: Any) -> None:
    net.constants[f"{CONV}.weight_zp"] = np.full(8, 5, np.int8)
    net.constants[f"{CONV}.weight_int8"][0, 0, 0, 0] = -128


def unequal_zero_points(net: Any) -> None:
    net.constants[f"{ACTIVATION}_zp"] = np.uint8(128)
    net.constants["other"] = np.uint8(127)
    net.node(f"{ACTIVATION}_dq").input[2] = "other"


@pytest.mark.parametrize(
    "plant",
    [
        uint8_behind_a_relu,
        wide_weights,
        unequal_zero_points,
        clipped(0, 6.5, np.uint8(0)),  # 130 steps
        clipped(0, 6, np.int8(100)),  # 27 steps above 100 were all that it had
    ],
)
def test_what_is_not_exact_stays_and_is_refused(
    qdq_net: Callable[..., Any], plant: Callable[[Any], None]
) -> None:
    net = qdq_net()
    plant(net)
    model, lines = repaired(net)
    assert lines == ()
    assert any(f.fatal for f in lint(index_graph(model, Path("net.onnx"))))


def test_a_file_without_fault_is_the_very_same_graph(qdq_net: Callable[..., Any]) -> None:
    graph = index_graph(qdq_net().model(), Path("net.onnx"))
    assert repair(graph, Path("net.onnx")).graph is graph


@settings(max_examples=200, deadline=None)
@given(zero=st.integers(0, 255), low=st.integers(-300, 300), size=st.integers(0, 400))
def test_the_limits_of_a_zero_point(zero: int, low: int, size: int) -> None:
    """Against all numbers that a clipped tensor can be."""
    values = np.arange(low, low + size + 1)
    unchanged = np.array_equal(np.clip(values + zero, 0, 255) - zero, np.clip(values, -128, 127))
    names = ["x", "s", "z"]
    floats = onnx.TensorProto.FLOAT
    nodes = [
        helper.make_node("Clip", ["input", "low", "high"], ["x"], "clip"),
        helper.make_node("QuantizeLinear", names, ["q"], "q"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["logits"], "dq"),
    ]
    constants = {
        "low": np.float32(low * 0.5),
        "high": np.float32((low + size) * 0.5),
        "s": np.float32(0.5),
        "z": np.uint8(zero),
    }
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("input", floats, ["N"])],
        [helper.make_tensor_value_info("logits", floats, ["N"])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    assert bool(repair(index_graph(model, Path("n")), Path("n")).told) == unchanged


def test_tensorrt_builds_the_repaired_file_in_int8(
    qdq_net: Callable[..., Any], tmp_path: Path
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
    backend = get_backend("tensorrt")
    net = qdq_net()
    int32_biases(net)
    uint8_128(net)
    scale_in_a_list(net)
    onnx.save(net.model(), tmp_path / "net.onnx")
    config = BuildConfig(options={"flavor": "tensorrt_rtx"})
    engine = backend.build(tmp_path / "net.onnx", tmp_path / "net.plan", config)
    products = [
        layer.precision
        for layer in backend.layers(engine)
        if {"conv1", CONV, "fc"} & set(layer.nodes)
    ]
    assert products == ["int8"] * 3
    notes = backend.remarks(engine).notes
    assert sum("INT32 bias" in note for note in notes) == 7
    assert sum("uint8 with zero point 128" in note for note in notes) > 5
