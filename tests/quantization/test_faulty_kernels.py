"""Nodes that engines get wrong in INT8, and that the engines get them right as they are written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from edgeres.backends import get_backend
from edgeres.backends.base import BuildConfig
from edgeres.backends.portable import portable_rules
from edgeres.exporting.passes import normal_form, to_bytes
from edgeres.graph.layers import load_model
from edgeres.quantization.calibrate import calibrate
from edgeres.quantization.placement import place
from edgeres.quantization.quantize import quantize

from .conftest import FUSING, SYMMETRIC, NetBuilder

JUDGE = Path(__file__).parents[2] / "benchmarks" / "quirk_judge.py"
CONFIG = BuildConfig(device="cpu", threads=1)


def small_pool(net, x):
    """Fifteen values along the smaller sides: OpenVINO's AVX2 kernel takes none so small."""
    x = net.relu("relu", net.conv("before", x, (3, 3, 3, 3)))
    x = net.add("AveragePool", "small", [x], kernel_shape=[2, 2], strides=[3, 2])
    return net.conv("behind", x, (8, 3, 1, 1)), 8


def group_epilogue(net, x):
    """Two groups of twelve channels with a slope for each channel behind."""
    x = net.conv("first", x, (4, 3, 3, 3))
    x = net.conv("grouped", x, (24, 2, 3, 3), groups=2)
    slopes = net.weight("slopes", net.random.uniform(-1, 1, (24, 1, 1)))
    return net.conv("behind", net.add("PRelu", "prelu", [x, slopes]), (8, 24, 1, 1)), 8


def signed_factors(net, x):
    """A Mul of either sign in front of a convolution."""
    x = net.add("MaxPool", "pooled", [net.relu("relu", net.conv("first", x, (10, 3, 3, 3)))],
                kernel_shape=[3, 3], strides=[1, 1])  # fmt: skip
    factors = net.weight("factors", net.random.uniform(-1, 1, (10, 1, 1)))
    x = net.relu("relu2", net.add("Mul", "factor", [x, factors]))
    return net.conv("behind", x, (8, 10, 1, 1)), 8


def filled_pad(net, x):
    """A Pad with a number that the integers of the tensor do not reach."""
    x = net.relu("relu", net.conv("first", x, (4, 3, 3, 3)))
    net.initializers.append(
        numpy_helper.from_array(np.array([0, 0, 0, 1, 0, 0, 1, 0], np.int64), "pads")
    )
    fill = net.weight("fill", np.float32(-0.4))
    return net.conv("behind", net.add("Pad", "filled", [x, "pads", fill]), (8, 4, 3, 3)), 8


def float_between(net, x):
    """A transposed convolution between INT8 layers, with weights that saturate in pairs."""
    x = net.relu("relu", net.conv("first", x, (8, 3, 3, 3)))
    weight = net.weight("up.weight", net.random.uniform(0.5, 1, (8, 8, 2, 2)))
    x = net.add("ConvTranspose", "up", [x, weight], kernel_shape=[2, 2])
    return net.conv("behind", net.relu("relu2", x), (8, 8, 3, 3)), 8


def tiny_weights(net, x):
    """Weights too small for an FP16 scale: the output is what the bias makes of them."""
    x = net.conv("first", x, (8, 3, 3, 3))
    weight = net.weight("tiny.weight", net.random.standard_normal((8, 8, 1, 1)) * 1e-7)
    x = net.add("Conv", "tiny", [x, weight, net.weight("tiny.bias", np.linspace(-1, 1, 8))])
    return net.conv("behind", net.relu("relu", x), (8, 8, 1, 1)), 8


def clipped_integers(net, x):
    """A Clip whose bounds are no whole number of steps, beside another reader."""
    x = net.conv("first", x, (8, 3, 3, 3))
    low, high = net.weight("low", np.float32(-0.001)), net.weight("high", np.float32(0.15))
    clipped = net.conv("behind", net.add("Clip", "clip", [x, low, high]), (8, 8, 3, 3))
    x = net.add("Mul", "few", [x, net.weight("factor", np.float32(1e-3))])
    return net.add("Concat", "both", [clipped, net.add("Sigmoid", "other", [x])], axis=1), 16


NETWORKS = [
    small_pool, group_epilogue, signed_factors, filled_pad, float_between, tiny_weights,
    clipped_integers,
]  # fmt: skip


def written(make, folder, rules, size=(7, 8), scale=1.0):
    net = NetBuilder()
    net.head(*make(net, "input"), 6)
    source = net.save(folder / "net.onnx", (3, *size), 6)
    model = ir.load(source)
    normal_form(model)
    source.write_bytes(to_bytes(model))
    images = np.random.default_rng(1).standard_normal((6, 3, *size)).astype(np.float32) * scale
    result = quantize(source, calibrate(source, [images]), rules, folder / "qdq.onnx")
    return result, images


def rule_sets():
    cpus = [get_backend(name).qdq_rules("cpu") for name in ("onnxruntime", "openvino")]
    fp16 = replace(SYMMETRIC, least_scale=2.0**-24)
    both = replace(portable_rules(cpus), name="portable-uint8")
    return {"onnxruntime": cpus[0], "openvino": cpus[1], "uint8": both,
            "int8": portable_rules([*cpus, fp16])}  # fmt: skip


@pytest.mark.parametrize("make", NETWORKS)
@pytest.mark.parametrize("rules", ["onnxruntime", "openvino", "uint8", "int8"])
def test_engines_compute_what_the_file_says(make, rules, tmp_path, load_program):
    chosen = rule_sets()[rules]
    _, images = written(make, tmp_path, chosen, scale=1e4 if make is tiny_weights else 1.0)
    right = load_program(JUDGE).expected(onnx.load(tmp_path / "qdq.onnx"), images)
    for name in [rules] if rules in ("onnxruntime", "openvino") else ["onnxruntime", "openvino"]:
        backend = get_backend(name)
        out = tmp_path / f"engine{backend.engine_suffix}"
        with backend.load(backend.build(tmp_path / "qdq.onnx", out, CONFIG), CONFIG) as runner:
            runs = [next(iter(runner.infer({"input": each[None]}).values())) for each in images]
        limit = 4 if rules == "int8" else 1  # seven bits on OpenVINO without VNNI
        assert right.steps(np.concatenate(runs)) <= limit, name


def float_nodes(make, folder, rules):
    return written(make, folder, rules)[0].float_nodes


def test_a_pool_is_small_along_the_smaller_sides(tmp_path):
    rules = replace(FUSING, ops=FUSING.ops | {"AveragePool"})
    assert "small" not in float_nodes(small_pool, tmp_path, rules)
    found = float_nodes(small_pool, tmp_path, replace(rules, least_pool=25))
    assert "under 25 values" in found["small"]  # 3 channels, 2 x 4 pixels
    assert "small" not in float_nodes(small_pool, tmp_path, replace(rules, least_pool=24))
    graph = load_model(tmp_path / "net.onnx").graph
    readers = place(graph, replace(rules, least_pool=25)).readers
    assert all(node.name != "small" for uses in readers.values() for node, _ in uses)


def test_groups_stay_float_only_in_front_of_a_constant_for_each_channel(tmp_path):
    rules = replace(FUSING, wrong_group_epilogue=True)
    assert "PRelu behind" in float_nodes(group_epilogue, tmp_path, rules)["grouped"]
    assert "grouped" not in float_nodes(group_epilogue, tmp_path, FUSING)

    def plain(net, x):
        x = net.conv("first", x, (4, 3, 3, 3))
        return net.relu("relu", net.conv("grouped", x, (24, 2, 3, 3), groups=2)), 24

    assert "grouped" not in float_nodes(plain, tmp_path, rules)


def test_a_float_layer_between_q_and_dq_has_a_computed_bias(tmp_path):
    written(float_between, tmp_path, replace(FUSING, quantizes_floats=True))
    graph = onnx.load(tmp_path / "qdq.onnx").graph
    makers = {node.output[0]: node for node in graph.node}
    up = next(node for node in graph.node if node.op_type == "ConvTranspose")
    assert makers[up.input[2]].op_type == "DequantizeLinear"
    written(float_between, tmp_path, FUSING)
    graph = onnx.load(tmp_path / "qdq.onnx").graph
    assert len(next(node for node in graph.node if node.op_type == "ConvTranspose").input) == 2


def test_a_channel_without_weights_keeps_its_bias(tmp_path):
    """An int32 bias in steps of input and weight scale would be 0 here."""
    rules = replace(SYMMETRIC, least_scale=2.0**-24, bias="int32")
    written(tiny_weights, tmp_path, rules, scale=1e4)
    values = {
        each.name: numpy_helper.to_array(each)
        for each in onnx.load(tmp_path / "qdq.onnx").graph.initializer
    }
    bias = values["tiny.bias_quantized"] * values["tiny.bias_scale"].astype(np.float64)
    assert np.abs(bias - np.linspace(-1, 1, 8)).max() < 0.05
