from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from edgeres.errors import ArtefactError, DataError, ModelError, UsageError
from edgeres.quantization.calibrate import calibrate
from edgeres.quantization.quantize import quantize
from edgeres.quantization.scales import MIN_SCALE
from edgeres.quantization.simulate import simulated_logits
from edgeres.recipe.quantize import QuantizeSettings
from edgeres.sqnr import sqnr_db

from .conftest import FUSING, SYMMETRIC, NetBuilder, resnet_onnx, smooth_images


@pytest.fixture(scope="module")
def reference(resnet, test_images):
    return ort.InferenceSession(str(resnet)).run(None, {"input": test_images})[0]


def optimized(path, tmp_path):
    """Ops of the graph that ONNX Runtime really runs, and its logits on demand."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    ops = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    return session, ops


def test_onnxruntime_runs_all_of_it_in_int8_as_simulated(
    resnet, table, test_images, reference, tmp_path
):
    out = tmp_path / "q.onnx"
    result = quantize(resnet, table, FUSING, out)
    onnx.checker.check_model(out, full_check=True)
    _, ops = optimized(out, tmp_path)
    assert ops["QLinearConv"] == 8
    assert ops["QLinearAdd"] == 3
    assert ops["QGemm"] == 1
    assert ops["QLinearGlobalAveragePool"] == 1
    assert not ops["Conv"] + ops["Add"] + ops["Gemm"] + ops["DequantizeLinear"]
    simulated = simulated_logits(out, [test_images])
    assert sqnr_db(reference, simulated) > 35
    assert len(result.quantized_nodes) == 14
    assert result.float_nodes == {}
    assert result.warnings == ()


def test_real_engine_agrees_with_the_simulation_where_weights_are_safe(
    resnet, table, test_images, reference, tmp_path
):
    # Holds with and without VNNI: safe weights cannot saturate.
    out = tmp_path / "q.onnx"
    result = quantize(resnet, table, FUSING, out, QuantizeSettings(saturation_safe="on"))
    assert result.saturation_safe
    assert all(p.highest <= 128 and p.lowest >= -128 for p in result.saturation.values())
    session, _ = optimized(out, tmp_path)
    real = session.run(None, {"input": test_images})[0]
    simulated = simulated_logits(out, [test_images])
    assert sqnr_db(simulated, real) > 45
    assert abs(sqnr_db(reference, real) - sqnr_db(reference, simulated)) < 0.7


def test_openvino_runs_the_convolutions_in_int8(resnet, table, test_images, reference, tmp_path):
    openvino = pytest.importorskip("openvino", reason="openvino is not installed")
    out = tmp_path / "q.onnx"
    rules = replace(FUSING, bias="float", quantize_outputs=False)
    quantize(resnet, table, rules, out, QuantizeSettings(saturation_safe="on"))
    compiled = openvino.Core().compile_model(str(out), "CPU")
    precision = [
        info["runtimePrecision"].astype(str)
        for info in (node.get_rt_info() for node in compiled.get_runtime_model().get_ops())
        if info["layerType"].astype(str) in ("Convolution", "FullyConnected")
    ]
    assert len(precision) == 9
    assert set(precision) <= {"u8", "i8"}
    real = next(iter(compiled({"input": test_images}).values()))
    assert sqnr_db(reference, real) > 35


@pytest.mark.slow
def test_tensorrt_parses_and_builds_the_symmetric_file(resnet, table, tmp_path):
    trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    out = tmp_path / "q.onnx"
    quantize(resnet, table, SYMMETRIC, out)
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, trt.Logger(trt.Logger.ERROR))
    assert parser.parse(out.read_bytes()), [
        str(parser.get_error(i)) for i in range(parser.num_errors)
    ]
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    profile.set_shape("input", (1, 3, 16, 16), (1, 3, 16, 16), (4, 3, 16, 16))
    config.add_optimization_profile(profile)
    assert builder.build_serialized_network(network, config) is not None


def test_symmetric_rules_give_symmetric_int8_and_float_biases(
    resnet, table, test_images, reference, tmp_path
):
    out = tmp_path / "q.onnx"
    quantize(resnet, table, SYMMETRIC, out)
    tensors = {t.name: numpy_helper.to_array(t) for t in onnx.load(out).graph.initializer}
    zeros = [value for name, value in tensors.items() if name.endswith("_zero_point")]
    assert {value.dtype for value in zeros} == {np.dtype(np.int8)}
    assert not any(value.any() for value in zeros)
    assert not any(value.dtype == np.int32 for value in tensors.values())
    assert sqnr_db(reference, simulated_logits(out, [test_images])) > 32


def test_weights_are_stored_as_integers_only(resnet, table, tmp_path):
    out = tmp_path / "q.onnx"
    quantize(resnet, table, FUSING, out)
    model = onnx.load(out)
    floats = [t for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT]
    assert sum(int(np.prod(t.dims)) for t in floats) < 600  # scales
    weighted = {n.input[1] for n in model.graph.node if n.op_type in ("Conv", "Gemm")}
    made_by = {n.output[0]: n.op_type for n in model.graph.node}
    assert {made_by[name] for name in weighted} == {"DequantizeLinear"}


def test_equal_inputs_give_equal_bytes_and_unique_names(resnet, table, tmp_path):
    for name in ("a.onnx", "b.onnx"):
        quantize(resnet, table, FUSING, tmp_path / name)
    table.save(tmp_path / "table.json")
    quantize(resnet, type(table).load(tmp_path / "table.json"), FUSING, tmp_path / "c.onnx")
    content = (tmp_path / "a.onnx").read_bytes()
    assert content == (tmp_path / "b.onnx").read_bytes() == (tmp_path / "c.onnx").read_bytes()
    names = [node.name for node in onnx.load(tmp_path / "a.onnx").graph.node]
    assert len(set(names)) == len(names)
    assert {n.name for n in onnx.load(resnet).graph.node} <= set(names)


def test_bias_correction_helps_and_measuring_helps_more(
    resnet, table, images, test_images, reference, tmp_path
):
    quality = []
    for settings in (
        QuantizeSettings(bias_correction="off"),
        QuantizeSettings(),
        QuantizeSettings(bias_correction="empirical"),
    ):
        quantize(resnet, table, FUSING, tmp_path / "q.onnx", settings, images=images)
        simulated = simulated_logits(tmp_path / "q.onnx", [test_images])
        quality.append(sqnr_db(reference, simulated))
    assert quality[1] > quality[0] + 0.5
    assert quality[2] > quality[1] - 0.3


def test_empirical_correction_makes_the_measured_means_equal(resnet, table, images, tmp_path):
    quantize(
        resnet, table, SYMMETRIC, tmp_path / "q.onnx",
        QuantizeSettings(bias_correction="empirical"), images=images,
    )  # fmt: skip
    wanted = ort.InferenceSession(str(resnet)).run(None, {"input": images})[0].mean(axis=0)
    got = simulated_logits(tmp_path / "q.onnx", [images]).mean(axis=0)
    np.testing.assert_allclose(got, wanted, atol=2e-4)


def test_learned_rounding_keeps_the_saturation_rule_and_equal_bytes(
    resnet, table, images, tmp_path
):
    settings = QuantizeSettings(saturation_safe="on", rounding="learned")
    paths = [tmp_path / "a.onnx", tmp_path / "b.onnx"]
    for path in paths:
        result = quantize(resnet, table, FUSING, path, settings, images=images)
    assert result.saturation_safe
    assert paths[0].read_bytes() == paths[1].read_bytes()
    plain = QuantizeSettings(saturation_safe="off", rounding="learned")
    assert not quantize(
        resnet, table, FUSING, tmp_path / "c.onnx", plain, images=images
    ).saturation_safe


def test_rounding_gain_is_told_layer_by_layer(resnet, table, images, tmp_path):
    settings = QuantizeSettings(bias_correction="empirical", rounding="learned")
    result = quantize(resnet, table, SYMMETRIC, tmp_path / "q.onnx", settings, images=images)
    gains = result.to_dict()["rounding_gain_db"]
    assert set(gains) == set(result.saturation)
    assert min(gains.values()) >= 0.0
    assert np.mean(list(gains.values())) > 2.0
    nearest = quantize(resnet, table, SYMMETRIC, tmp_path / "q.onnx")
    assert nearest.to_dict()["rounding_gain_db"] == {}


def edited(path, out, **changes):
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.name in changes:
            content = changes[tensor.name](numpy_helper.to_array(tensor).copy())
            tensor.CopyFrom(numpy_helper.from_array(content, tensor.name))
    onnx.save(model, out)
    return out


def test_dead_channels_and_tensors_are_named_and_valid(resnet, images, test_images, tmp_path):
    def first_channel(w):
        w[0] = 0
        return w

    model = edited(
        resnet,
        tmp_path / "dead.onnx",
        **{
            "stem.conv.weight": first_channel,
            "block1.conv1.weight": lambda w: w * 0,
            "block1.conv1.bias": lambda b: -np.abs(b),
        },
    )
    result = quantize(model, calibrate(model, [images]), FUSING, tmp_path / "q.onnx")
    assert result.dead_channels["stem.conv"] == (0,)
    assert result.dead_channels["block1.conv1"] == tuple(range(8))
    assert "block1.relu1_out" in result.dead_tensors
    assert any("stem.conv: output channels without weights: 0" in w for w in result.warnings)
    for tensor in onnx.load(tmp_path / "q.onnx").graph.initializer:
        if tensor.name.endswith("_scale") and ".bias" not in tensor.name:
            assert (numpy_helper.to_array(tensor) >= MIN_SCALE).all(), tensor.name
    wanted = ort.InferenceSession(str(model)).run(None, {"input": test_images})[0]
    assert sqnr_db(wanted, simulated_logits(tmp_path / "q.onnx", [test_images])) > 30


def test_tiny_weights_with_a_large_bias_do_not_overflow_int32(
    resnet, images, test_images, tmp_path
):
    def tiny(w):
        w[1] *= 1e-7
        return w

    def large(b):
        b[1] = 40.0
        return b

    model = edited(
        resnet, tmp_path / "tiny.onnx", **{"block1.conv1.weight": tiny, "block1.conv1.bias": large}
    )
    quantize(model, calibrate(model, [images]), FUSING, tmp_path / "q.onnx")
    tensors = {
        t.name: numpy_helper.to_array(t) for t in onnx.load(tmp_path / "q.onnx").graph.initializer
    }
    stored = tensors["block1.conv1.bias_quantized"].astype(np.float64)
    restored = stored * tensors["block1.conv1.bias_scale"]
    assert np.abs(stored).max() <= 2**30 * 1.01
    assert restored[1] == pytest.approx(40.0, rel=1e-4)
    wanted = ort.InferenceSession(str(model)).run(None, {"input": test_images})[0]
    session, _ = optimized(tmp_path / "q.onnx", tmp_path)
    assert sqnr_db(wanted, session.run(None, {"input": test_images})[0]) > 25


@pytest.mark.parametrize(("setting", "device", "safe"), [
    ("auto", True, True), ("auto", False, False), ("on", False, True), ("off", True, False),
])  # fmt: skip
def test_safe_weights_are_made_where_they_are_needed_or_asked_for(
    resnet, table, tmp_path, setting, device, safe
):
    rules = replace(FUSING, saturating=device)
    settings = QuantizeSettings(saturation_safe=setting)
    result = quantize(resnet, table, rules, tmp_path / "q.onnx", settings)
    assert result.saturation_safe == safe
    # A file that will saturate says so.
    assert any("int16" in w for w in result.warnings) == (device and not safe)


def test_the_account_is_plain_json(resnet, table, tmp_path):
    result = quantize(resnet, table, FUSING, tmp_path / "q.onnx")
    data = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert data["saturation"]["stem.conv"]["pairs"] > 0
    assert set(data["weight_sqnr_db"]) == set(result.saturation)


def test_edited_ranges_reach_the_file(resnet, table, tmp_path):
    stats = table.tensors["block1.relu1_out"]
    chosen = replace(stats.ranges["output"], high=2.55)
    changed = replace(stats, ranges={**stats.ranges, "output": chosen})
    edited_table = replace(table, tensors={**table.tensors, "block1.relu1_out": changed})
    quantize(resnet, edited_table, FUSING, tmp_path / "q.onnx")
    tensors = {
        t.name: numpy_helper.to_array(t) for t in onnx.load(tmp_path / "q.onnx").graph.initializer
    }
    assert tensors["block1.relu1_out_scale"] == np.float32(0.01)


@pytest.mark.parametrize("calibrator", ["minmax", "midway", "percentile", "mse", "output"])
def test_every_calibrator_gives_a_working_model(
    resnet, table, test_images, reference, tmp_path, calibrator
):
    quantize(resnet, table, FUSING, tmp_path / "q.onnx", QuantizeSettings(calibrator=calibrator))
    simulated = simulated_logits(tmp_path / "q.onnx", [test_images])
    assert sqnr_db(reference, simulated) > 20, calibrator


def test_unsupported_ops_stay_float_and_the_model_runs(images, test_images, tmp_path):
    net = NetBuilder(0)
    x = net.relu("relu", net.conv("conv", "input", (4, 3, 3, 3)))
    y = net.add("Mul", "scaled", [x, net.add("Sigmoid", "gate", [x])])
    net.head(net.conv("conv2", y, (4, 4, 3, 3), bias=False), 4, 10)
    model = net.save(tmp_path / "gated.onnx", (3, 16, 16), 10)
    # Four channels without a Relu behind them: 24 images do not show the range of their means.
    table = calibrate(model, [images, test_images])
    result = quantize(model, table, FUSING, tmp_path / "q.onnx")
    assert set(result.float_nodes) == {"gate", "scaled"}
    wanted = ort.InferenceSession(str(model)).run(None, {"input": test_images})[0]
    assert sqnr_db(wanted, simulated_logits(tmp_path / "q.onnx", [test_images])) > 30
    _, ops = optimized(tmp_path / "q.onnx", tmp_path)
    assert ops["QLinearConv"] == 2


def test_wrong_inputs_are_refused_and_nothing_is_written(resnet, table, images, tmp_path):
    out = tmp_path / "q.onnx"
    other = resnet_onnx(tmp_path / "other.onnx", seed=9)
    with pytest.raises(ArtefactError, match="table is of model"):
        quantize(other, table, FUSING, out)
    with pytest.raises(ModelError, match="nothing in it can run in INT8"):
        quantize(resnet, table, replace(FUSING, ops=frozenset()), out)
    with pytest.raises(UsageError, match="measures on images"):
        quantize(resnet, table, FUSING, out, QuantizeSettings(bias_correction="empirical"))
    with pytest.raises(UsageError, match="measures on images"):
        quantize(resnet, table, FUSING, out, QuantizeSettings(rounding="learned"))
    assert not out.exists()
    quantize(resnet, table, FUSING, out)
    with pytest.raises(ModelError, match="quantized already"):
        calibrate(out, [images])


def test_simulation_needs_a_file_and_images(resnet, tmp_path):
    with pytest.raises(ModelError, match="no ONNX file"):
        simulated_logits(tmp_path / "none.onnx", [smooth_images(2)])
    with pytest.raises(DataError, match="no images"):
        simulated_logits(resnet, [])
    with pytest.raises(DataError, match="takes float32 images"):
        simulated_logits(resnet, [smooth_images(2, size=8)])


@pytest.mark.parametrize(("size", "width"), [(16, 8), (8, 8)])
@pytest.mark.parametrize("rounding", ["nearest", "learned"])
def test_a_dense_layer_on_channels_last_maps(tmp_path, size, width, rounding):
    """Its sums run over the last axis: moments of rows of pixels are none of its channels."""
    net = NetBuilder(1)
    x = net.relu("relu", net.conv("stem", "input", (width, 3, 3, 3)))
    x = net.add("Transpose", "to_nhwc", [x], perm=[0, 2, 3, 1])
    x = net.add("MatMul", "pw", [x, net.weight("w", net.random.standard_normal((width, 16)))])
    x = net.add("Transpose", "to_nchw", [net.relu("relu2", x)], perm=[0, 3, 1, 2])
    net.head(x, 16, 10)
    model = net.save(tmp_path / "net.onnx", (3, size, size), 10)
    shown = smooth_images(24, size=size)
    rules = replace(FUSING, ops=FUSING.ops | {"MatMul"})
    settings = QuantizeSettings(rounding=rounding)
    table = calibrate(model, [shown])
    result = quantize(model, table, rules, tmp_path / "q.onnx", settings, images=shown)
    assert "pw" in result.quantized_nodes
    wanted = ort.InferenceSession(str(model)).run(None, {"input": shown})[0]
    assert sqnr_db(wanted, simulated_logits(tmp_path / "q.onnx", [shown])) > 30
