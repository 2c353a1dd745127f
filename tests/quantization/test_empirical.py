from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from edgeres.backends.portable import portable_rules
from edgeres.graph.layers import layer_of, load_model
from edgeres.quantization.calibrate import calibrate
from edgeres.quantization.empirical import Anchor, anchors, measured_shifts, output_means
from edgeres.quantization.quantize import quantize
from edgeres.quantization.segments import run_in_segments
from edgeres.recipe.quantize import QuantizeSettings

from .conftest import FUSING, SYMMETRIC, NetBuilder, smooth_images, sqnr_db

#: Asymmetric uint8 with the Add inside the convolution, and the strictest of two rule sets.
FOLDING = replace(SYMMETRIC, name="u8", activation_dtype="uint8", activation_symmetric=False)
PORTABLE = portable_rules([FUSING, SYMMETRIC])


def values(path, images, names):
    """Tensors of a model by name, unoptimized."""
    model = onnx.load(path)
    del model.graph.output[:]
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options)
    return dict(zip(names, session.run(names, {"input": images}), strict=True))


def layer_names(path):
    return [node.name for node in load_model(path).graph if layer_of(node)]


def test_the_last_layer_of_a_block_is_measured_behind_the_add(resnet):
    found = anchors(load_model(resnet).graph, layer_names(resnet))
    assert found["block1.add"] == Anchor("block1.conv2", rectified=True)
    assert found["block2.add"] == Anchor("block2.conv2", rectified=True)
    assert found["block2.down"] == Anchor("block2.down", rectified=False)
    assert found["block1.conv1"] == Anchor("block1.conv1", rectified=True)
    assert sorted(each.layer for each in found.values()) == sorted(layer_names(resnet))


def test_means_are_those_that_travel_on(resnet, images):
    places = anchors(load_model(resnet).graph, layer_names(resnet))
    means = output_means(load_model(resnet), places, images)
    tensors = {
        "block1.conv1": "block1.relu1_out",
        "block1.add": "block1.relu2_out",
        "block2.down": "block2.down_out",
        "fc": "logits",
    }
    true = values(resnet, images, list(tensors.values()))
    for node, tensor in tensors.items():
        axes = (0, *range(2, true[tensor].ndim))
        np.testing.assert_allclose(means[node], true[tensor].mean(axis=axes), atol=1e-5)


def test_segments_give_the_tensors_of_the_whole_model(resnet, table, images, tmp_path):
    quantize(resnet, table, FUSING, tmp_path / "q.onnx")
    seen = {}

    def visit(name, output):
        seen[name] = output
        return output

    stops = ["stem.conv", "block1.add", "block2.conv2", "block2.down", "fc"]
    run_in_segments(ir.load(tmp_path / "q.onnx"), stops, images, visit)
    names = [f"{stop}_out" for stop in stops[:-1]] + ["logits"]
    true = values(tmp_path / "q.onnx", images, names)
    assert set(seen) == set(stops)
    for stop, name in zip(stops, names, strict=True):
        np.testing.assert_allclose(seen[stop], true[name], atol=1e-5)


def test_what_a_visit_returns_is_what_later_nodes_read(resnet, images):
    seen = {}

    def silence(name, output):
        seen[name] = output
        return output * 0 if name == "stem.conv" else output

    run_in_segments(ir.load(resnet), ["stem.conv", "fc"], images, silence)
    assert np.ptp(seen["fc"], axis=0).max() < 1e-5


def test_a_planted_shift_is_found_and_earlier_ones_do_not_travel_on(resnet, images, tmp_path):
    model = onnx.load(resnet)
    for tensor in model.graph.initializer:
        if tensor.name in ("block1.conv1.bias", "block3.conv2.bias"):
            moved = onnx.numpy_helper.to_array(tensor) - np.float32(0.25)
            tensor.CopyFrom(onnx.numpy_helper.from_array(moved, tensor.name))
    onnx.save(model, tmp_path / "shifted.onnx")
    places = anchors(load_model(resnet).graph, layer_names(resnet))
    wanted = output_means(load_model(resnet), places, images)
    shifts = measured_shifts(ir.load(tmp_path / "shifted.onnx"), places, wanted, images)
    assert sorted(shifts) == sorted(layer_names(resnet))
    for name, shift in shifts.items():
        planted = 0.25 if name in ("block1.conv1", "block3.conv2") else 0.0
        np.testing.assert_allclose(shift, planted, atol=2e-3, err_msg=name)


@pytest.mark.parametrize("seed_setting", ["mse", "minmax"])
def test_means_behind_every_relu_come_closer(resnet, table, images, tmp_path, seed_setting):
    tensors = [f"block{i}.relu2_out" for i in (1, 2, 3)]
    wanted = values(resnet, images, tensors)
    errors = []
    for method in ("analytic", "empirical"):
        settings = QuantizeSettings(calibrator=seed_setting, bias_correction=method)
        quantize(resnet, table, FUSING, tmp_path / "q.onnx", settings, images=images)
        got = values(tmp_path / "q.onnx", images, tensors)
        errors.append([np.abs((got[t] - wanted[t]).mean(axis=(0, 2, 3))).mean() for t in tensors])
    assert all(after < before for before, after in zip(*errors, strict=True)), errors


def pre_activation(path):
    """Blocks whose input is read by a Relu and by the Add: the sum itself travels on."""
    net = NetBuilder(3)
    x = net.conv("stem", "input", (8, 3, 3, 3))
    for name in ("block1", "block2", "block3"):
        y = net.relu(f"{name}.relu1", x)
        y = net.relu(f"{name}.relu2", net.conv(f"{name}.conv1", y, (8, 8, 3, 3)))
        x = net.add("Add", f"{name}.add", [net.conv(f"{name}.conv2", y, (8, 8, 3, 3)), x])
    net.head(net.relu("last", x), 8, 10)
    return net.save(path, (3, 16, 16), 10)


def attended(path):
    """Channel attention with a convolution of rank 1 over the channels, which takes a bias."""
    net = NetBuilder(5)
    x = net.relu("relu", net.conv("stem", "input", (8, 3, 3, 3)))
    to_row = net.weight("to_row", np.zeros(0))
    net.initializers[-1] = onnx.numpy_helper.from_array(np.array([0, 1, 8], np.int64), to_row)
    to_map = net.weight("to_map", np.zeros(0))
    net.initializers[-1] = onnx.numpy_helper.from_array(np.array([0, 8, 1, 1], np.int64), to_map)
    row = net.add("Reshape", "row", [net.add("GlobalAveragePool", "squeeze", [x]), to_row])
    kernel = net.weight("eca.weight", net.random.standard_normal((1, 1, 3)))
    row = net.add("Conv", "eca", [row, kernel], kernel_shape=[3], pads=[1, 1])
    gate = net.add("Sigmoid", "gate", [net.add("Reshape", "column", [row, to_map])])
    net.head(net.add("Mul", "scaled", [x, gate]), 8, 10)
    return net.save(path, (3, 16, 16), 10)


@pytest.mark.parametrize("rules", [FUSING, SYMMETRIC, FOLDING, PORTABLE], ids=lambda r: r.name)
@pytest.mark.parametrize("make", [None, pre_activation, attended], ids=["resnet", "preact", "eca"])
def test_where_a_mean_is_taken_is_the_same_in_both_graphs(resnet, images, tmp_path, rules, make):
    """The correction may gain little, but where the two means are of unlike tensors it ruins."""
    fp32 = resnet if make is None else make(tmp_path / "net.onnx")
    table, shown = calibrate(fp32, [images]), smooth_images(48, seed=1)
    wanted = values(fp32, shown, ["logits"])["logits"]
    found = {}
    for method in ("analytic", "empirical"):
        settings = QuantizeSettings(bias_correction=method)
        quantize(fp32, table, rules, tmp_path / "q.onnx", settings, images=images)
        found[method] = sqnr_db(wanted, values(tmp_path / "q.onnx", shown, ["logits"])["logits"])
    assert found["empirical"] > found["analytic"] - 2, found


@pytest.mark.parametrize("rules", [FUSING, PORTABLE], ids=lambda r: r.name)
def test_a_branch_that_is_nearly_dead_cannot_hold_the_shift_of_the_sum(
    resnet, images, tmp_path, rules
):
    """Its bias is INT32 at the scale of its products, where the shift would be 1.4e11 units."""
    model = onnx.load(resnet)
    small = {"block3.conv1.weight": 1e-5, "block3.conv1.bias": 1e-5, "block3.conv2.weight": 1e-4,
             "block3.conv2.bias": 0.0}  # fmt: skip
    for tensor in model.graph.initializer:
        if tensor.name in small:
            content = onnx.numpy_helper.to_array(tensor) * np.float32(small[tensor.name])
            tensor.CopyFrom(onnx.numpy_helper.from_array(content, tensor.name))
    fp32, shown = tmp_path / "net.onnx", smooth_images(48, seed=1)
    onnx.save(model, fp32)
    table = calibrate(fp32, [images])
    settings = QuantizeSettings(bias_correction="empirical")
    quantize(fp32, table, rules, tmp_path / "q.onnx", settings, images=images)
    wanted = values(fp32, shown, ["logits"])["logits"]
    assert sqnr_db(wanted, values(tmp_path / "q.onnx", shown, ["logits"])["logits"]) > 30
