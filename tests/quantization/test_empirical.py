from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from edgeres.quantization.empirical import anchors, measured_shifts, output_means
from edgeres.quantization.graph import layer_of, load_model
from edgeres.quantization.quantize import QuantizeSettings, quantize
from edgeres.quantization.segments import run_in_segments

from .conftest import FUSING


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
    assert found["block1.add"] == "block1.conv2"
    assert found["block2.add"] == "block2.conv2"
    assert found["block2.down"] == "block2.down"
    assert found["block1.conv1"] == "block1.conv1"
    assert sorted(found.values()) == sorted(layer_names(resnet))


def test_means_are_those_that_travel_on(resnet, images):
    nodes = ["block1.conv1", "block1.add", "block2.down", "fc"]
    means = output_means(load_model(resnet), nodes, images)
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
    wanted = output_means(load_model(resnet), list(places), images)
    shifts = measured_shifts(ir.load(tmp_path / "shifted.onnx"), wanted, images)
    by_layer = {places[node]: shift for node, shift in shifts.items()}
    for name, shift in by_layer.items():
        planted = 0.25 if name in ("block1.conv1", "block3.conv2") else 0.0
        np.testing.assert_allclose(shift, planted, atol=2e-3, err_msg=name)


@pytest.mark.parametrize("seed_setting", ["mse", "minmax"])
def test_means_behind_every_relu_come_closer(resnet, table, images, tmp_path, seed_setting):
    tensors = [f"block{i}.relu2_out" for i in (1, 2, 3)]
    wanted = values(resnet, images, tensors)
    errors = []
    for method in ("analytic", "empirical"):
        settings = QuantizeSettings(calibrator=seed_setting, bias_method=method)
        quantize(resnet, table, FUSING, tmp_path / "q.onnx", settings, images=images)
        got = values(tmp_path / "q.onnx", images, tensors)
        errors.append([np.abs((got[t] - wanted[t]).mean(axis=(0, 2, 3))).mean() for t in tensors])
    assert all(after < before for before, after in zip(*errors, strict=True)), errors
