"""The form that TensorRT 8.6 reads: its parser's limits are kept, and no number changes."""

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
from edgeres.backends.tensorrt.graph import index_graph, read_graph
from edgeres.backends.tensorrt.lint import lint
from edgeres.backends.tensorrt.opset17 import to_opset17
from edgeres.errors import ModelError

from .onnx_parsers import complaints, operators

Run = Callable[[onnx.ModelProto, np.ndarray], np.ndarray]


def lowered(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    to_opset17(index_graph(model, folder / "net.onnx"), folder / "opset17.onnx")
    assert not [f for f in lint(read_graph(folder / "opset17.onnx")) if f.fatal]
    return onnx.load(folder / "opset17.onnx")


@pytest.fixture
def feed() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((4, 3, 16, 16)).astype(np.float32)


def test_the_quantizers_operators_are_in_the_parsers_table() -> None:
    known = operators()
    assert len(known) > 140
    assert known["QuantizeLinear"] == {"zero-point-0"}
    assert known["MaxPool"] == {"two-or-three-dimensional", "no-indices"}
    assert set(known) >= get_backend("tensorrt").qdq_rules("cuda:0").ops | {"Relu", "MaxPool"}


@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
@pytest.mark.parametrize("pool", ["GlobalAveragePool", "ReduceMean"])
def test_the_parsers_limits_are_kept_and_the_numbers_stay(
    run: Run, qdq_net: Callable[..., Any], tmp_path: Path, feed: np.ndarray, stem: str, pool: str
) -> None:
    net = qdq_net(pool=pool, stem=stem)
    for name in [name for name in net.constants if name.endswith(".weight_zp")]:
        del net.constants[name]  # as quantizers for TensorRT 10 write them
    for node in net.nodes:
        node.input[:] = [name for name in node.input if not name.endswith(".weight_zp")]
    net.node("conv1").attribute.remove(
        next(item for item in net.node("conv1").attribute if item.name == "kernel_shape")
    )
    model = net.model()
    before = complaints(model)
    for expected in ("opset 20", "no zero point", "without kernel_shape"):
        assert any(expected in line for line in before), expected
    assert any("axes as an input" in line for line in before) == (pool == "ReduceMean")
    after = lowered(model, tmp_path)
    assert complaints(after) == []
    assert after.ir_version == 8
    assert np.array_equal(run(model, feed), run(after, feed))
    names = [node.name for node in after.graph.node]
    assert [name for name in names if not name.endswith("_QuantizeLinear")] == [
        node.name for node in net.nodes
    ]


def test_integer_weights_are_a_complaint(qdq_net: Callable[..., Any], tmp_path: Path) -> None:
    model = qdq_net().model()
    assert any("stored as integers" in line for line in complaints(model))
    half = numpy_helper.from_array(np.float16(0.05), "input_scale")
    (scale,) = (item for item in model.graph.initializer if item.name == "input_scale")
    scale.CopyFrom(half)
    assert any("float16 scale" in line for line in complaints(model))


def test_float16_scales_become_float32(qdq_net: Callable[..., Any], tmp_path: Path) -> None:
    net = qdq_net()
    net.constants["input_scale"] = np.float16(0.05)
    after = lowered(net.model(), tmp_path)
    assert complaints(after) == []
    constants = {item.name: numpy_helper.to_array(item) for item in after.graph.initializer}
    quantizer = next(node for node in after.graph.node if node.name == "input_q")
    assert constants[quantizer.input[1]] == np.float32(np.float16(0.05))


@settings(max_examples=300, deadline=None)
@given(st.floats(2.0**-62, 2.0**40, width=32))
def test_every_integer_survives_its_float32_weight(scale: float) -> None:
    integers = np.arange(-128, 128, dtype=np.int8)
    weights = integers.astype(np.float32) * np.float32(scale)
    assert np.array_equal(np.rint(weights / np.float32(scale)), integers)
    # A kernel may multiply by the reciprocal instead.
    reciprocal = np.float32(1) / np.float32(scale)
    assert np.array_equal(np.rint(weights * reciprocal), integers)


@pytest.mark.parametrize("axis", [0, -4])
def test_the_scales_axis_goes_along(
    run: Run, qdq_conv: Callable[..., onnx.ModelProto], tmp_path: Path, axis: int
) -> None:
    model = qdq_conv(2, axis=axis)
    feed = np.random.default_rng(0).standard_normal((2, 16, 8, 8)).astype(np.float32)
    after = lowered(model, tmp_path)
    assert complaints(after) == []
    assert np.array_equal(run(model, feed), run(after, feed))


@pytest.mark.parametrize("opset", [13, 17, 18, 19, 20, 21, 22, 23])
def test_any_opset_is_read(
    run: Run, float_net: Callable[..., Any], tmp_path: Path, feed: np.ndarray, opset: int
) -> None:
    net = float_net()
    net.opset = opset
    after = lowered(net.model(), tmp_path)
    assert complaints(after) == []
    assert next(item.version for item in after.opset_import) == min(opset, 17)
    assert np.array_equal(run(net.model(), feed), run(after, feed))


def before_the_network(op: str, inputs: list[str], **attributes: object) -> Callable[[Any], None]:
    def plant(net: Any) -> None:
        net.nodes.insert(0, helper.make_node(op, ["input", *inputs], ["first"], "first"))
        net.nodes[0].attribute.extend(
            helper.make_attribute(name, value) for name, value in attributes.items()
        )
        net.node("conv1").input[0] = "first"
        net.constants["pads"] = np.zeros(4, np.int64)
        net.constants["axes"] = np.array([2, 3], np.int64)

    return plant


@pytest.mark.parametrize(
    ("plant", "message"),
    [
        (before_the_network("Mish", []), "first: Mish of opset 20 has no form in opset 17"),
        (before_the_network("Gelu", []), "first: Gelu of opset 20 has no form"),
        (before_the_network("Pad", ["pads", "", "axes"]), "first: Pad of opset 20 has no form"),
        (before_the_network("Cast", [], to=1), ""),
        (before_the_network("Identity", []), ""),
    ],
)
def test_what_opset_17_cannot_say_is_one_line(
    run: Run,
    float_net: Callable[..., Any],
    tmp_path: Path,
    feed: np.ndarray,
    plant: Callable[[Any], None],
    message: str,
) -> None:
    net = float_net()
    plant(net)
    if not message:
        assert np.array_equal(run(net.model(), feed), run(lowered(net.model(), tmp_path), feed))
        return
    with pytest.raises(ModelError, match=message) as caught:
        lowered(net.model(), tmp_path)
    assert caught.value.hint
    assert not (tmp_path / "opset17.onnx").exists()


def test_axes_that_the_graph_computes_are_refused(
    float_net: Callable[..., Any], tmp_path: Path
) -> None:
    net = float_net(pool="ReduceMean")
    del net.constants["axes"]
    net.nodes.insert(0, helper.make_node("Shape", ["input"], ["axes"], "shape", start=2))
    with pytest.raises(ModelError, match="avgpool: ReduceMean of opset 20 has no form"):
        lowered(net.model(), tmp_path)


def test_equal_bytes_each_time(qdq_net: Callable[..., Any], tmp_path: Path) -> None:
    model = qdq_net().model()
    lowered(model, tmp_path)
    first = (tmp_path / "opset17.onnx").read_bytes()
    lowered(model, tmp_path)
    assert (tmp_path / "opset17.onnx").read_bytes() == first
