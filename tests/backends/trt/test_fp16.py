"""INT8 with the rest in float16: the numbers stay safe and close, measured with ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper, numpy_helper

from edgeres.backends.tensorrt.fp16 import half_scale, requantize, to_half
from edgeres.backends.tensorrt.graph import read_graph
from edgeres.backends.tensorrt.lint import lint
from edgeres.errors import ModelError

scales = st.floats(2.0**-40, 400.0, width=32, allow_subnormal=False)


@given(scales)
def test_half_scales_never_vanish_and_stay_close(scale: float) -> None:
    half = float(half_scale(np.float32(scale)))
    assert half > 0
    if scale >= 2.0**-14:
        assert abs(half - scale) <= scale * 2.0**-11
    else:
        assert scale <= half <= scale + 2.0**-24


@settings(max_examples=200)
@given(
    hnp.arrays(np.int8, (3, 5), elements=st.integers(-127, 127)),
    hnp.arrays(np.float32, 3, elements=scales),
)
def test_new_integers_stand_for_what_the_old_ones_did(
    integers: np.ndarray, scale: np.ndarray
) -> None:
    half = half_scale(scale)
    new = requantize(integers, scale, half, axis=0)
    before = integers * scale.astype(np.float64)[:, None]
    after = new * half.astype(np.float64)[:, None]
    tiny = (scale < 2.0**-14)[:, None]
    # Rule 1 keeps the integers; rule 2 is off by at most half a step, as any quantization is.
    assert np.array_equal(new[~tiny[:, 0]], integers[~tiny[:, 0]])
    room = np.where(tiny, half.astype(np.float64)[:, None] / 2, np.abs(before) * 2.0**-11)
    assert np.all(np.abs(after - before) <= room * (1 + 1e-9))


def run(model: onnx.ModelProto, feed: np.ndarray, *outputs: str) -> list[np.ndarray]:
    """Runs a model as it is written, with no optimization."""
    ort = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return list(session.run(list(outputs) or ["logits"], {"input": feed}))


def calibrated(net: Any, feed: np.ndarray) -> dict[str, float]:
    """Scale of every activation from its largest value on the feed."""
    model = net.model()
    names = [output for node in net.nodes for output in node.output if output != "logits"]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    values = run(model, feed, *names)
    tops = {name: float(np.abs(value).max()) for name, value in zip(names, values, strict=True)}
    return {name: top / 127 for name, top in {**tops, "input": float(np.abs(feed).max())}.items()}


def halved(net: Any, folder: Path) -> onnx.ModelProto:
    onnx.save(net.model(), folder / "net.onnx")
    graph = read_graph(folder / "net.onnx")
    to_half(graph, folder / "half.onnx")
    assert lint(read_graph(folder / "half.onnx")) == []
    return onnx.load(folder / "half.onnx")


def sqnr_db(reference: np.ndarray, other: np.ndarray) -> float:
    noise = np.sum((reference - other.astype(np.float64)) ** 2)
    return float(10 * np.log10(np.sum(reference.astype(np.float64) ** 2) / noise))


@pytest.mark.parametrize("pool", ["GlobalAveragePool", "ReduceMean"])
def test_float16_adds_little_to_the_error_of_int8(
    float_net: Callable[..., Any], qdq_net: Callable[..., Any], tmp_path: Path, pool: str
) -> None:
    shape = {"pool": pool, "widths": (16, 32), "blocks": (2, 2)}
    feed = np.random.default_rng(0).standard_normal((16, 3, 16, 16)).astype(np.float32)
    plain = float_net(**shape)
    net = qdq_net(**shape, qdq={"scales": calibrated(plain, feed)})
    half = halved(net, tmp_path)
    (in_float,) = run(plain.model(), feed)
    (in_int8,) = run(net.model(), feed)
    (in_half,) = run(half, feed)
    assert sqnr_db(in_float, in_int8) > 25
    assert sqnr_db(in_float, in_half) > sqnr_db(in_float, in_int8) - 1
    assert in_half.dtype == np.float32


def test_float16_inputs_and_outputs_give_the_same_numbers(
    qdq_net: Callable[..., Any], tmp_path: Path
) -> None:
    net = qdq_net()
    behind_casts = halved(net, tmp_path)
    to_half(read_graph(tmp_path / "net.onnx"), tmp_path / "bare.onnx", io="float16")
    bare = onnx.load(tmp_path / "bare.onnx")
    assert lint(read_graph(tmp_path / "bare.onnx")) == []
    assert "Cast" not in {node.op_type for node in bare.graph.node}
    feed = np.random.default_rng(0).standard_normal((4, 3, 16, 16)).astype(np.float32)
    (with_casts,) = run(behind_casts, feed)
    (without,) = run(bare, feed.astype(np.float16))
    assert without.dtype == np.float16
    assert np.array_equal(with_casts.astype(np.float16), without)


def test_types_and_names_of_the_file(qdq_net: Callable[..., Any], tmp_path: Path) -> None:
    net = qdq_net()
    half = halved(net, tmp_path)
    kinds = {tensor.data_type for tensor in half.graph.initializer}
    assert TensorProto.FLOAT not in kinds
    assert {TensorProto.FLOAT16, TensorProto.INT8} <= kinds
    assert [node.name for node in half.graph.node if node.op_type != "Cast"] == [
        node.name for node in net.nodes
    ]
    for value in (half.graph.input[0], half.graph.output[0]):
        assert value.type.tensor_type.elem_type == TensorProto.FLOAT
    onnx.checker.check_model(half, full_check=True)


def test_a_channel_of_tiny_weights_survives(qdq_net: Callable[..., Any], tmp_path: Path) -> None:
    net = qdq_net()
    net.constants["layer1.0.conv2.weight_scale"][3] = 1e-7
    half = halved(net, tmp_path)
    constants = {item.name: numpy_helper.to_array(item) for item in half.graph.initializer}
    dequantizer = next(n for n in half.graph.node if n.name == "layer1.0.conv2.weight_dq")
    integers, scale = (constants[name] for name in dequantizer.input[:2])
    assert scale.dtype == np.float16
    assert scale[3] > 0
    old = net.constants["layer1.0.conv2.weight_int8"]
    assert np.array_equal(np.delete(integers, 3, 0), np.delete(old, 3, 0))
    np.testing.assert_allclose(integers[3] * float(scale[3]), old[3] * 1e-7, atol=scale[3] / 2)


def test_nothing_changes_where_it_must_not(qdq_net: Callable[..., Any], tmp_path: Path) -> None:
    net = qdq_net()
    onnx.save(net.model(), tmp_path / "net.onnx")
    before = (tmp_path / "net.onnx").read_bytes()
    graph = read_graph(tmp_path / "net.onnx")
    text = graph.model.SerializeToString(deterministic=True)
    to_half(graph, tmp_path / "one.onnx")
    to_half(graph, tmp_path / "two.onnx")
    assert graph.model.SerializeToString(deterministic=True) == text
    assert (tmp_path / "net.onnx").read_bytes() == before
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "two.onnx").read_bytes()


def too_old(net: Any) -> None:
    net.opset = 17


def large_bias(net: Any) -> None:
    net.constants["conv1.bias"][0] = 1e5


def infinite_bias(net: Any) -> None:
    net.constants["conv1.bias"][0] = np.inf


def large_weights(net: Any) -> None:
    net.constants["layer1.0.conv2.weight_scale"][0] = 1e5


def large_activations(net: Any) -> None:
    net.constants["relu_out_scale"] = np.float32(600)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (too_old, "needs opset 19 or later, the model has 17"),
        (large_bias, r"conv1\.bias: reaches 100000, beyond float16"),
        (infinite_bias, r"conv1\.bias: reaches inf, beyond float16"),
        (large_weights, r"layer1\.0\.conv2\.weight_dq: a weight scale is 100000, beyond float16"),
        (large_activations, "relu_out_.*: activations reach 76200, beyond float16"),
    ],
)
def test_what_float16_cannot_hold_is_one_line(
    qdq_net: Callable[..., Any], tmp_path: Path, spoil: Callable[[Any], None], message: str
) -> None:
    net = qdq_net()
    spoil(net)
    onnx.save(net.model(), tmp_path / "net.onnx")
    with pytest.raises(ModelError, match=message) as caught:
        to_half(read_graph(tmp_path / "net.onnx"), tmp_path / "half.onnx")
    assert caught.value.hint
    assert not (tmp_path / "half.onnx").exists()


def with_constant_node(net: Any, attribute: dict[str, Any]) -> onnx.ModelProto:
    """The network with its input multiplied by a Constant node's number."""
    net.nodes.insert(0, helper.make_node("Constant", [], ["factor"], "factor", **attribute))
    net.nodes.insert(1, helper.make_node("Mul", ["input", "factor"], ["scaled"], "mul"))
    net.node("input_q").input[0] = "scaled"
    return net.model()


@pytest.mark.parametrize(
    "attribute",
    [
        {"value_float": 0.5},
        {"value_floats": [0.5]},
        {"value": numpy_helper.from_array(np.float32(0.5))},
    ],
    ids=lambda attribute: next(iter(attribute)),
)
def test_a_constant_node_is_float16_however_it_is_written(
    qdq_net: Callable[..., Any], tmp_path: Path, attribute: dict[str, Any]
) -> None:
    feed = np.random.default_rng(0).standard_normal((2, 3, 16, 16)).astype(np.float32)
    net = qdq_net()
    model = with_constant_node(net, attribute)
    half = halved(net, tmp_path)
    assert sqnr_db(run(model, feed)[0], run(half, feed)[0]) > 35


def test_integers_in_constant_nodes_stay(qdq_net: Callable[..., Any], tmp_path: Path) -> None:
    net = qdq_net(pool="ReduceMean")
    del net.constants["axes"]
    net.nodes.insert(0, helper.make_node("Constant", [], ["axes"], "axes", value_ints=[2, 3]))
    half = halved(net, tmp_path)
    feed = np.random.default_rng(0).standard_normal((2, 3, 16, 16)).astype(np.float32)
    assert sqnr_db(run(net.model(), feed)[0], run(half, feed)[0]) > 35


def test_names_that_are_taken_are_not_taken_twice(
    qdq_net: Callable[..., Any], tmp_path: Path
) -> None:
    net = qdq_net()
    feed = np.random.default_rng(0).standard_normal((2, 3, 16, 16)).astype(np.float32)
    before = run(net.model(), feed)[0]
    renamed = {
        "conv1_out": "input_half",
        "relu_out": "logits_half",
        "relu_out_q_out": "input_scale_half",
        "relu_out_dq_out": "input_half_cast",
    }
    for node in net.nodes:
        for names in (node.input, node.output):
            names[:] = [renamed.get(name, name) for name in names]
    assert np.array_equal(run(net.model(), feed)[0], before)
    half = halved(net, tmp_path)
    assert sqnr_db(before, run(half, feed)[0]) > 35


def test_the_scales_of_a_resize_stay_float32(qdq_net: Callable[..., Any], tmp_path: Path) -> None:
    net = qdq_net()
    net.constants["sizes"] = np.array([1, 1, 0.5, 0.5], np.float32)
    net.nodes.insert(0, helper.make_node("Resize", ["input", "", "sizes"], ["small"], "resize"))
    net.node("input_q").input[0] = "small"
    half = halved(net, tmp_path)
    feed = np.random.default_rng(0).standard_normal((2, 3, 16, 16)).astype(np.float32)
    assert sqnr_db(run(net.model(), feed)[0], run(half, feed)[0]) > 30


def test_constants_made_from_a_shape_are_float16(
    qdq_net: Callable[..., Any], tmp_path: Path
) -> None:
    net = qdq_net()
    net.nodes.insert(0, helper.make_node("Shape", ["input"], ["shape"], "shape"))
    net.nodes.insert(1, helper.make_node("ConstantOfShape", ["shape"], ["zeros"], "zeros"))
    net.nodes.insert(2, helper.make_node("Add", ["input", "zeros"], ["same"], "same"))
    net.node("input_q").input[0] = "same"
    half = halved(net, tmp_path)
    feed = np.random.default_rng(0).standard_normal((2, 3, 16, 16)).astype(np.float32)
    assert sqnr_db(run(net.model(), feed)[0], run(half, feed)[0]) > 35


def test_a_graph_inside_a_node_is_a_true_message(
    qdq_net: Callable[..., Any], tmp_path: Path
) -> None:
    net = qdq_net()
    value = helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)
    body = helper.make_graph(
        [helper.make_node("Identity", ["input"], ["inner"])], "body", [], [value]
    )
    net.constants["yes"] = np.array(True)
    net.nodes.insert(
        0, helper.make_node("If", ["yes"], ["chosen"], "if", then_branch=body, else_branch=body)
    )
    net.node("input_q").input[0] = "chosen"
    with pytest.raises(ModelError, match="if: holds a graph of its own, which rest=float16"):
        halved(net, tmp_path)
