"""Quantized files from elsewhere on real engines: what they compute otherwise than is written."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from edgeres.backends import get_backend
from edgeres.backends.base import BuildConfig
from edgeres.cli import app
from edgeres.errors import ModelError
from edgeres.evaluation.qdq_check import check_file, check_qdq, finding_lines, findings_of
from edgeres.quantization.engine_check import decided_hazards
from edgeres.quantization.hazards import hazards
from edgeres.quantization.lint import lint_model, load_quantized

from ..conftest import QdqWriter
from .conftest import FUSING

CHANNELS = 8
ENGINES = ("onnxruntime", "openvino")


def pooled(path, *, zero, size=9, around=True, **attributes):
    """conv, average pool, conv; or the pool alone."""
    net = QdqWriter(size)
    x = net.pair("x", "x1", zero=zero)
    if around:
        x = net.pair(net.conv(x, "before"), "x2", zero=zero)
    x = net.add("AveragePool", [x], "pool", strides=[2, 2], **attributes)
    if around:
        x = net.conv(net.pair(x, "x3", zero=zero), "behind")
    return net.save(path, x)


def backend_of(name):
    backend = get_backend(name)
    if (reason := backend.missing()) is not None:
        pytest.skip(reason)
    return backend


def really_off(path, backend):
    """Largest difference between the whole engine and the file, in parts of the largest value."""
    import onnxruntime as ort

    x = np.random.default_rng(3).normal(0, 2, (1, CHANNELS, *shape_of(path))).astype(np.float32)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    (right,) = ort.InferenceSession(path, options).run(None, {"x": x})
    config = BuildConfig(threads=1)
    engine = backend.build(path, path.with_name(f"engine{backend.engine_suffix}"), config)
    with backend.load(engine, config) as runner:
        (mine,) = runner.infer({"x": x}).values()
    return float(np.abs(mine - right).max() / np.abs(right).max())


def shape_of(path):
    dims = onnx.load(path).graph.input[0].type.tensor_type.shape.dim
    return [dim.dim_value for dim in dims][2:]


PADDED = {"kernel_shape": [3, 3], "pads": [1] * 4, "count_include_pad": 1}
POOLS = {
    "padded": {"zero": 128, **PADDED},
    "padded alone": {"zero": 128, "around": False, **PADDED},
    "padded at zero": {"zero": 0, **PADDED},
    "own pixels": {"zero": 128, **PADDED, "count_include_pad": 0},
    "ceil": {"zero": 128, "kernel_shape": [2, 2], "ceil_mode": 1, "count_include_pad": 1},
    "ceil, own pixels": {"zero": 128, "kernel_shape": [2, 2], "ceil_mode": 1},
    "ceil over padding": {"zero": 128, "size": 8, "ceil_mode": 1, **PADDED},
}


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("case", POOLS)
def test_a_pool_is_blamed_where_the_whole_engine_is_off(tmp_path, name, case):
    """Which pools an engine computes otherwise is the engine's matter: both must only agree."""
    backend = backend_of(name)
    path = pooled(tmp_path / "net.onnx", **POOLS[case])
    blamed = [f for f in check_file(path, name, "cpu", {}) if f["rule"] == "pool"]
    off = really_off(path, backend)
    assert bool(blamed) == (off > 0.1), off
    assert all((f["node"], f["severity"]) == ("pool", "wrong") for f in blamed)


def test_padding_with_the_integer_zero_is_found_on_openvino(tmp_path):
    backend_of("openvino")
    path = pooled(tmp_path / "net.onnx", **POOLS["padded"])
    (found,) = [f for f in check_qdq(path, "openvino", "cpu") if f.severity == "wrong"]
    assert (found.rule, found.node) == ("pool", "pool")
    assert "padding, count_include_pad" in found.message
    assert finding_lines([found])[0].startswith("WRONG on this device: pool: ")


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_that_is_right_is_not_blamed(tmp_path, name):
    """Weights of -128 and a depthwise layer with them: right on x86, so nothing is said there."""
    backend = backend_of(name)
    net = QdqWriter()
    depthwise = np.random.default_rng(1).integers(-128, -90, (CHANNELS, 1, 3, 3))
    x = net.pair(net.conv(net.pair("x", "x1", zero=128), "plain"), "x2", zero=128)
    values = np.zeros((CHANNELS, CHANNELS, 1, 1), int)
    values[:, 0] = -128
    x = net.pair(net.conv(x, "lowest", values), "x3", zero=128)
    x = net.pair(net.conv(x, "depthwise", depthwise, groups=CHANNELS), "x4", zero=128)
    path = net.save(tmp_path / "net.onnx", x)
    model = load_quantized(path)
    assert [f.rule for _, f in hazards(model.graph)] == ["lowest-weight"] * 2
    config = BuildConfig(threads=1)
    asked = decided_hazards(load_quantized(path), backend, config, can_run=True)
    off = really_off(path, backend)
    assert bool([f for f in asked if f.severity == "wrong"]) == (off > 0.1), off
    told = decided_hazards(load_quantized(path), backend, config, can_run=False)
    assert [(f.node, f.severity) for f in told] == [("lowest", "risk"), ("depthwise", "risk")]


@pytest.mark.parametrize("name", ENGINES)
def test_weights_of_the_lowest_value_are_told_once_on_every_cpu(tmp_path, name):
    """Right on x86, wrong on Arm without dot products, where the file may go."""
    backend = backend_of(name)
    path = integer_conv(tmp_path / "lowest.onnx", np.full((8, 8, 1, 1), -128))
    found = [f for f in check_file(path, name, "cpu", {}) if f["rule"] == "lowest-weight"]
    wrong = backend.qdq_rules("cpu").wrong_lowest_weight
    assert [f["severity"] for f in found] == ["wrong" if wrong else "risk"]
    assert "64 of 64 weights are -128" in found[0]["message"]


def test_a_bias_beyond_int32_is_found(tmp_path):
    """ONNX Runtime stores it as int32 at the scale of the products, where it wraps around."""
    backend = backend_of("onnxruntime")
    net = QdqWriter()
    values = np.ones((CHANNELS, CHANNELS, 1, 1), int)
    x = net.conv(net.pair("x", "x1", scale=1e-6), "conv", values, np.full(CHANNELS, 20.0))
    path = net.save(tmp_path / "net.onnx", net.pair(x, "x2", scale=0.1))
    found = [f for f in check_file(path, "onnxruntime", "cpu", {}) if f["rule"] == "bias-range"]
    assert bool(found) == (really_off(path, backend) > 0.1)
    model = load_quantized(path)
    assert [f.rule for _, f in hazards(model.graph)] == ["bias-range"]


def integer_conv(path, values, *, scale=0.005):
    """A layer written with QLinearConv, without node names."""
    net = QdqWriter(channels=values.shape[1])
    told = [net.constant("s", np.float32(0.05)), net.constant("z", np.uint8(128))]
    net.add("QuantizeLinear", ["x", *told], "q")
    weight = [
        net.constant("w", values.astype(np.int8)),
        net.constant("ws", np.full(len(values), scale, np.float32)),
        net.constant("wz", np.zeros(len(values), np.int8)),
    ]
    net.add("QLinearConv", ["q", *told, *weight, *told], "c")
    x = net.add("DequantizeLinear", ["c", *told], "d")
    for node in net.nodes:
        node.ClearField("name")
    return net.save(path, x)


def test_integer_operators_are_looked_at_too(tmp_path):
    full = integer_conv(tmp_path / "full.onnx", np.full((8, 8, 1, 1), 127))
    rules = replace(FUSING, saturating=True)
    (found,) = [f for f in lint_model(load_quantized(full), rules) if f.severity == "wrong"]
    assert (found.rule, found.node) == ("saturation", "c")
    assert not [f for f in lint_model(load_quantized(full), FUSING) if f.severity == "wrong"]
    half = integer_conv(tmp_path / "half.onnx", np.full((8, 8, 1, 1), 64))
    assert not [f for f in lint_model(load_quantized(half), rules) if f.severity == "wrong"]
    flat = integer_conv(tmp_path / "flat.onnx", np.full((8, 8, 1, 1), 64), scale=1e-40)
    assert {f.rule for f in lint_model(load_quantized(flat), rules) if f.severity == "wrong"} == {
        "scale"
    }
    lowest = integer_conv(tmp_path / "lowest.onnx", np.full((8, 8, 1, 1), -128))
    assert [f.rule for _, f in hazards(load_quantized(lowest).graph)] == ["lowest-weight"]
    backend = backend_of("onnxruntime")
    config = BuildConfig(threads=1)
    asked = decided_hazards(load_quantized(lowest), backend, config, can_run=True)
    assert bool(asked) == (really_off(lowest, backend) > 0.1)


def test_a_file_of_integer_operators_by_another_tool_has_no_false_note(resnet, images, tmp_path):
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.batches = iter([{"input": images}])

        def get_next(self):
            return next(self.batches, None)

    out = tmp_path / "q.onnx"
    quantize_static(
        resnet,
        out,
        Reader(),
        quant_format=QuantFormat.QOperator,
        activation_type=QuantType.QUInt8,
        per_channel=True,
    )
    model = load_quantized(out)
    assert {"QLinearConv", "QLinearAdd", "MaxPool"} <= {node.op_type for node in model.graph}
    assert lint_model(model, FUSING) == ()
    safe = lint_model(model, replace(FUSING, saturating=True))
    assert {f.rule for f in safe} == {"saturation"}


def test_a_float_model_has_no_findings(resnet):
    assert check_file(resnet, "onnxruntime", "cpu", {}) == []


def test_a_check_that_fails_is_a_finding(tmp_path):
    (tmp_path / "x.onnx").write_text("nothing")
    (found,) = findings_of(tmp_path / "x.onnx", "onnxruntime", "cpu")
    assert (found.rule, found.severity) == ("check", "risk")
    with pytest.raises(ModelError, match=r"x\.onnx"):
        check_qdq(tmp_path / "x.onnx", "onnxruntime", "cpu")


def test_lines_for_a_person_count_what_is_only_slow(tmp_path):
    backend_of("onnxruntime")
    net = QdqWriter()
    x = net.conv(net.conv(net.pair("x", "x1"), "first"), "second")
    path = net.save(tmp_path / "n.onnx", net.pair(x, "x2"))
    notes = [f for f in findings_of(path, "onnxruntime", "cpu") if f.severity == "note"]
    assert notes
    lines = finding_lines(notes * 3)
    assert len(lines) == len({f.rule for f in notes})
    assert all(line.startswith("note: ") and "more)" in line for line in lines)


@pytest.mark.parametrize("target", ENGINES)
def test_build_says_that_sums_clip_without_vnni(tmp_path, without_vnni, target):
    backend_of(target)
    net = QdqWriter()
    weights = np.full((8, 8, 1, 1), 127)
    weights[:2] = -128  # right here, and told for other CPUs
    x = net.pair(net.conv(net.pair("x", "x1"), "full", weights), "x2", 1.0)
    path = net.save(tmp_path / "net.onnx", x)
    arguments = ["build", str(path), "--target", target, "--output", str(tmp_path / "engine")]
    done = subprocess.run(
        [sys.executable, "-m", "edgeres", *arguments, "--json"],
        capture_output=True,
        text=True,
        check=False,
        env=without_vnni,
    )
    assert done.returncode == 0, done.stderr
    found = [f for f in json.loads(done.stdout)["findings"] if f["severity"] != "note"]
    told = [(f["severity"], f["rule"], f["node"]) for f in found]
    assert told == [("wrong", "saturation", "full"), ("risk", "lowest-weight", "full")]


def test_build_tells_and_convert_and_quantize_refuse(tmp_path):
    backend_of("openvino")
    path = pooled(tmp_path / "net.onnx", **POOLS["padded"])
    arguments = ["build", str(path), "--target", "openvino", "--output", str(tmp_path / "engine")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "WRONG on this device: pool: an INT8 AveragePool with padding" in done.output
    options = ["--mean", "0.5", "--std", "0.5", "--json"]
    convert = ["convert", "--model", str(path), "--output", str(tmp_path / "out"), *options]
    integers = integer_conv(tmp_path / "q.onnx", np.full((8, 1, 1, 1), 64))
    quantize = ["quantize", str(integers), "--target", "openvino", "--data", "fashion-mnist"]
    for refused in (convert, [*quantize, "--output", str(tmp_path / "qq.onnx"), *options]):
        done = CliRunner().invoke(app, refused)
        assert done.exit_code == 3, done.output
        said = json.loads(done.stdout)["error"]
        assert "quantized already" in said["message"]
        assert "edgeres build" in said["hint"]


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_a_concat_of_unlike_scales_is_blamed_where_the_whole_engine_is_off(
    tmp_path, name, dtype, stored
):
    """OpenVINO keeps one of two int8 scales, with Q/DQ behind the Concat and without."""
    backend = backend_of(name)
    zero = 128 if dtype == np.uint8 else 0
    few = np.random.default_rng(4).integers(-20, 20, (8, 16, 1, 1))
    net = QdqWriter()
    x = net.pair("x", "x1", zero=zero, dtype=dtype)
    first = net.pair(net.conv(x, "a"), "a1", 0.05, zero, dtype)
    second = net.pair(net.conv(x, "b", few[:, :8]), "b1", 0.005, zero, dtype)
    x = net.add("Concat", [first, second], "both", axis=1)
    if stored:
        x = net.pair(x, "both1", 0.05, zero, dtype)
    path = net.save(tmp_path / "net.onnx", net.conv(x, "behind", few))
    blamed = [f for f in check_file(path, name, "cpu", {}) if f["severity"] != "note"]
    off = really_off(path, backend)
    assert bool(blamed) == (off > 0.1), off
    assert all((f["rule"], f["node"]) == ("shared-scale", "both") for f in blamed)
    assert off < 0.1 or (name, dtype) == ("openvino", np.int8)
