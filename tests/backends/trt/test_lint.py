"""Every row of the table in docs/tensorrt.md, planted in a residual network and caught."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from edgeres.backends import get_backend
from edgeres.backends.base import BuildConfig
from edgeres.backends.tensorrt.fp16 import to_half
from edgeres.backends.tensorrt.graph import index_graph, read_graph
from edgeres.backends.tensorrt.lint import Finding, lint, refuse_fatal
from edgeres.errors import ModelError

ACTIVATION = "layer1.0.relu1_out"
CONV = "layer1.0.conv2"


def zero_point(net: Any) -> None:
    net.constants[f"{ACTIVATION}_zp"] = np.int8(3)


def weight_zero_point(net: Any) -> None:
    net.constants[f"{CONV}.weight_zp"][5] = 1


def uint8(net: Any) -> None:
    net.constants[f"{ACTIVATION}_zp"] = np.uint8(0)


def uint8_by_default(net: Any) -> None:
    del net.node(f"{ACTIVATION}_q").input[2]
    del net.node(f"{ACTIVATION}_dq").input[2]


def int16(net: Any) -> None:
    net.opset = 21
    net.constants[f"{ACTIVATION}_zp"] = np.int16(0)


def scale_zero(net: Any) -> None:
    net.constants[f"{ACTIVATION}_scale"] = np.float32(0)


def scale_negative(net: Any) -> None:
    net.constants[f"{ACTIVATION}_scale"] = np.float32(-1)


def scale_nan(net: Any) -> None:
    net.constants[f"{ACTIVATION}_scale"] = np.float32(np.nan)


def scale_infinite(net: Any) -> None:
    net.constants[f"{ACTIVATION}_scale"] = np.float32(np.inf)


def dead_channel(net: Any) -> None:
    net.constants[f"{CONV}.weight_scale"][2] = 0


def scale_computed(net: Any) -> None:
    net.nodes.insert(0, helper.make_node("ReduceMax", ["input"], ["top"], name="top", keepdims=0))
    net.node(f"{ACTIVATION}_q").input[1] = "top"


def int32_bias(net: Any) -> None:
    conv = net.node(CONV)
    channels = net.constants[f"{CONV}.bias"].size
    net.constants["bias_int32"] = np.ones(channels, np.int32)
    net.constants["bias_scale"] = np.full(channels, 1e-3, np.float32)
    node = helper.make_node(
        "DequantizeLinear", ["bias_int32", "bias_scale"], ["bias"], name="bias_dq", axis=0
    )
    net.nodes.insert(net.nodes.index(conv), node)
    conv.input[2] = "bias"


def conv_axis(net: Any) -> None:
    _turn(net, CONV, 1)


def conv_axis_by_default(net: Any) -> None:
    _turn(net, CONV, 1)
    del net.node(f"{CONV}.weight_dq").attribute[:]


def gemm_axis(net: Any) -> None:
    _turn(net, "fc", 1)


def gemm_axis_untransposed(net: Any) -> None:
    net.constants["fc.weight_int8"] = np.ascontiguousarray(net.constants["fc.weight_int8"].T)
    del net.node("fc").attribute[:]
    _turn(net, "fc", 0)


def per_channel_activation(net: Any) -> None:
    channels = net.constants[f"{CONV}.bias"].size
    net.constants[f"{ACTIVATION}_scale"] = np.full(channels, 0.05, np.float32)
    net.constants[f"{ACTIVATION}_zp"] = np.zeros(channels, np.int8)


def one_element_activation(net: Any) -> None:
    net.constants[f"{ACTIVATION}_scale"] = np.full(1, 0.05, np.float32)
    net.constants[f"{ACTIVATION}_zp"] = np.zeros(1, np.int8)


def operator(net: Any) -> None:
    node = net.node("relu")
    node.op_type, node.domain = "QLinearRelu", "com.microsoft"


def _turn(net: Any, node: str, axis: int) -> None:
    """Scales along another axis, as many as there are channels there."""
    size = net.constants[f"{node}.weight_int8"].shape[axis]
    net.constants[f"{node}.weight_scale"] = np.full(size, 0.01, np.float32)
    net.constants[f"{node}.weight_zp"] = np.zeros(size, np.int8)
    dequantizer = net.node(f"{node}.weight_dq")
    del dequantizer.attribute[:]
    dequantizer.attribute.append(helper.make_attribute("axis", axis))


FATAL = [
    (zero_point, "zero-point", f"{ACTIVATION}_q"),
    (weight_zero_point, "zero-point", f"{CONV}.weight_dq"),
    (uint8, "uint8", f"{ACTIVATION}_q"),
    (uint8_by_default, "uint8", f"{ACTIVATION}_q"),
    (int16, "not-int8", f"{ACTIVATION}_q"),
    (scale_zero, "scale-not-positive", f"{ACTIVATION}_q"),
    (scale_negative, "scale-not-positive", f"{ACTIVATION}_q"),
    (scale_nan, "scale-not-positive", f"{ACTIVATION}_q"),
    (scale_infinite, "scale-not-positive", f"{ACTIVATION}_q"),
    (dead_channel, "scale-not-positive", f"{CONV}.weight_dq"),
    (scale_computed, "dynamic-scale", f"{ACTIVATION}_q"),
    (int32_bias, "int32-bias", "bias_dq"),
    (conv_axis, "weight-axis", CONV),
    (conv_axis_by_default, "weight-axis", CONV),
    (gemm_axis, "weight-axis", "fc"),
    (gemm_axis_untransposed, "weight-axis", "fc"),
    (per_channel_activation, "per-channel-activation", f"{ACTIVATION}_q"),
    (one_element_activation, "per-channel-activation", f"{ACTIVATION}_q"),
    (operator, "operator", "relu"),
]


def findings_of(net: Any, folder: Path) -> list[Finding]:
    onnx.save(net.model(), folder / "net.onnx")
    return lint(read_graph(folder / "net.onnx"))


@pytest.mark.parametrize("pool", ["GlobalAveragePool", "ReduceMean"])
@pytest.mark.parametrize("residual", ["skip", "both"])
def test_good_files_have_no_finding(
    qdq_net: Callable[..., Any],
    float_net: Callable[..., Any],
    tmp_path: Path,
    pool: str,
    residual: str,
) -> None:
    good = qdq_net(pool=pool, stem="imagenet", qdq={"residual": residual})
    assert findings_of(good, tmp_path) == []
    assert findings_of(float_net(pool=pool), tmp_path) == []


@pytest.mark.parametrize(
    ("plant", "rule", "node"), FATAL, ids=lambda item: getattr(item, "__name__", None)
)
def test_planted_violation_is_found_and_named(
    qdq_net: Callable[..., Any],
    tmp_path: Path,
    plant: Callable[[Any], None],
    rule: str,
    node: str,
) -> None:
    net = qdq_net()
    plant(net)
    found = findings_of(net, tmp_path)
    assert rule in {finding.rule for finding in found}
    first = next(finding for finding in found if finding.rule == rule)
    assert first.fatal
    assert first.node == node
    assert node in first.message
    assert "\n" not in first.message
    # Nothing else is accused: the same node or its twin on the other side of the tensor.
    assert {finding.rule for finding in found} == {rule}


def test_a_channel_is_named(qdq_net: Callable[..., Any], tmp_path: Path) -> None:
    net = qdq_net()
    dead_channel(net)
    assert "channel 2 is 0" in findings_of(net, tmp_path)[0].message


def test_build_refuses_before_it_needs_tensorrt_and_leaves_the_old_plan(
    qdq_net: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
    monkeypatch.setattr("edgeres.backends.tensorrt.build.build_plan", None)
    net = qdq_net()
    uint8(net)
    onnx.save(net.model(), tmp_path / "net.onnx")
    out = tmp_path / "net.plan"
    out.write_text("old")
    with pytest.raises(ModelError, match=f"{ACTIVATION}_q: uint8.*1 more") as caught:
        get_backend("tensorrt").build(tmp_path / "net.onnx", out, BuildConfig())
    assert "edgeres quantize" in caught.value.hint
    assert out.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.onnx", "net.plan"]


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_an_axis_may_count_from_the_end_whatever_a_conv_runs_over(
    qdq_conv: Callable[..., onnx.ModelProto], dimensions: int
) -> None:
    for axis, rules in ((0, set()), (-dimensions - 2, set()), (1, {"weight-axis"}), (-1, None)):
        findings = lint(index_graph(qdq_conv(dimensions, axis=axis), Path("conv.onnx")))
        assert {finding.rule for finding in findings} == (
            {"weight-axis"} if rules is None else rules
        )


def test_slow_but_right_is_a_note(qdq_net: Callable[..., Any], tmp_path: Path) -> None:
    net = qdq_net()
    net.node(CONV).input[0] = ACTIVATION
    found = findings_of(net, tmp_path)
    assert [(finding.rule, finding.fatal) for finding in found] == [("half-quantized", False)]
    assert "its data has no Q/DQ" in found[0].message
    refuse_fatal(found, "net.onnx")


def test_quantizer_before_relu_is_a_note(qdq_net: Callable[..., Any], tmp_path: Path) -> None:
    net = qdq_net()
    relu = net.node("layer1.0.relu1")
    place = net.nodes.index(relu)
    constants = [f"{ACTIVATION}_scale", f"{ACTIVATION}_zp"]
    net.nodes[place:place] = [
        helper.make_node("QuantizeLinear", [relu.input[0], *constants], ["mid_q"], name="mid_q"),
        helper.make_node("DequantizeLinear", ["mid_q", *constants], ["mid"], name="mid_dq"),
    ]
    relu.input[0] = "mid"
    found = findings_of(net, tmp_path)
    assert [(finding.rule, finding.node, finding.fatal) for finding in found] == [
        ("quantized-before-relu", "layer1.0.relu1", False)
    ]


def test_unequal_scales_are_a_note(qdq_net: Callable[..., Any], tmp_path: Path) -> None:
    net = qdq_net()
    net.constants["other"] = np.float32(0.07)
    net.node(f"{ACTIVATION}_dq").input[1] = "other"
    found = findings_of(net, tmp_path)
    assert [(finding.rule, finding.node) for finding in found] == [
        ("scale-mismatch", f"{ACTIVATION}_dq")
    ]


def test_constant_nodes_are_constants(qdq_net: Callable[..., Any], tmp_path: Path) -> None:
    net = qdq_net()
    scale = net.constants.pop(f"{ACTIVATION}_scale")
    value = onnx.numpy_helper.from_array(scale)
    name = f"{ACTIVATION}_scale"
    net.nodes.insert(0, helper.make_node("Constant", [], [name], name="scale", value=value))
    assert findings_of(net, tmp_path) == []


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/passwd", "*/_ORT_MEM_ADDR_/*"])
def test_external_data_elsewhere_is_refused(
    qdq_net: Callable[..., Any], tmp_path: Path, location: str
) -> None:
    model = qdq_net().model()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="not in a plain file beside the model"):
        read_graph(tmp_path / "net.onnx")


def test_external_data_through_a_link_is_refused(
    qdq_net: Callable[..., Any], tmp_path: Path
) -> None:
    model = qdq_net().model()
    tensor = model.graph.initializer[0]
    (tmp_path / "weights.bin").symlink_to("/etc/passwd")
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="not in a plain file beside the model"):
        read_graph(tmp_path / "net.onnx")


def test_external_data_beside_the_model_is_read(
    qdq_net: Callable[..., Any], tmp_path: Path
) -> None:
    net = qdq_net()
    dead_channel(net)
    onnx.save(
        net.model(),
        tmp_path / "net.onnx",
        save_as_external_data=True,
        location="net.bin",
        size_threshold=0,
    )
    assert "channel 2 is 0" in lint(read_graph(tmp_path / "net.onnx"))[0].message


@pytest.mark.parametrize("content", [b"", b"not onnx at all", b"\x08\x0a"])
def test_what_is_not_onnx_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "net.onnx").write_bytes(content)
    with pytest.raises(ModelError, match=r"net\.onnx"):
        read_graph(tmp_path / "net.onnx")


def test_no_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="Expected an ONNX model at"):
        read_graph(tmp_path / "absent.onnx")


def test_damaged_files_end_in_findings_or_one_line(
    qdq_net: Callable[..., Any], tmp_path: Path
) -> None:
    whole = qdq_net(widths=(2, 4), shape=(1, 8, 8)).model().SerializeToString()
    chance = random.Random(7)
    refused = linted = 0
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(chance.choice([1, 2, 4, 8])):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        (tmp_path / "net.onnx").write_bytes(damaged)
        try:
            graph = read_graph(tmp_path / "net.onnx")
            if not any(finding.fatal for finding in lint(graph)):
                to_half(graph, tmp_path / "half.onnx")
            linted += 1
        except ModelError:
            refused += 1
    assert refused > 20
    assert linted > 20


@pytest.mark.parametrize("op", ["Conv", "Gemm", "Relu", "QuantizeLinear", "DequantizeLinear"])
def test_nodes_without_inputs_do_no_harm(
    qdq_net: Callable[..., Any], tmp_path: Path, op: str
) -> None:
    net = qdq_net()
    net.nodes.append(helper.make_node(op, [], ["end"], name="bare"))
    assert all(finding.node == "bare" for finding in findings_of(net, tmp_path))


@pytest.mark.parametrize("scale", [np.zeros(0, np.float32), np.float32(1).astype(np.int64)])
def test_scales_of_no_use(qdq_net: Callable[..., Any], tmp_path: Path, scale: Any) -> None:
    net = qdq_net()
    net.constants[f"{ACTIVATION}_scale"] = scale
    found = findings_of(net, tmp_path)
    assert found[0].rule == "scale-not-positive"
    assert found[0].node == f"{ACTIVATION}_q"
