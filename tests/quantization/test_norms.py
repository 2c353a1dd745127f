"""Norms behind sums: depthwise convolutions, or factor and shift in float, as the rules say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest

from edgeres.backends import get_backend
from edgeres.graph.layers import is_norm, load_model
from edgeres.quantization.calibrate import calibrate
from edgeres.quantization.placement import place
from edgeres.quantization.quantize import quantize
from edgeres.quantization.simulate import simulated_logits
from edgeres.sqnr import sqnr_db

from .conftest import FUSING, SYMMETRIC, NetBuilder, smooth_images


def network(folder, *, lowest: float = 0.5):
    """A pre-activation block; the norm's least factor is given."""
    net = NetBuilder()
    x = net.relu("stem.relu", net.conv("stem", "input", (8, 3, 3, 3)))
    x = net.add("Add", "add", [x, net.conv("first", x, (8, 8, 3, 3))])
    factors = np.linspace(lowest, 2, 8).reshape(8, 1, 1, 1)
    shifts = np.linspace(-1, 1, 8)
    names = [x, net.weight("norm.weight", factors), net.weight("norm.bias", shifts)]
    y = net.add("Conv", "norm", names, kernel_shape=[1, 1], group=8)
    x = net.add("Add", "add2", [x, net.conv("second", net.relu("relu", y), (8, 8, 3, 3))])
    net.head(x, 8, 10)
    return net.save(folder / "net.onnx", (3, 16, 16), 10)


def nodes(path):
    return {node.name: node.op_type for node in onnx.load(path).graph.node}


def test_rules_choose_how_a_norm_is_written(tmp_path):
    source, images = network(tmp_path), smooth_images(32)
    table = calibrate(source, [images])
    right = simulated_logits(source, [images])
    for floats in (False, True):
        out = tmp_path / f"{floats}.onnx"
        result = quantize(source, table, replace(SYMMETRIC, float_norms=floats), out)
        assert ("norm" in result.quantized_nodes) is not floats
        assert ("norm" in result.float_nodes) is floats
        assert sqnr_db(right, simulated_logits(out, [images])) > 30
    assert nodes(tmp_path / "False.onnx")["norm"] == "Conv"
    written = nodes(tmp_path / "True.onnx")
    assert (written["norm.factor"], written["norm"]) == ("Mul", "Add")


def test_a_norm_with_a_factor_of_another_sign_stays_a_convolution(tmp_path):
    source = network(tmp_path, lowest=-0.5)
    placement = place(load_model(source).graph, replace(SYMMETRIC, float_norms=True))
    assert "norm" in placement.quantized_nodes


def test_only_one_tap_for_each_channel_is_a_norm(tmp_path):
    graph = load_model(network(tmp_path)).graph
    assert [node.name for node in graph if is_norm(node)] == ["norm"]
    net = NetBuilder()
    x = net.conv("strided", "input", (3, 1, 1, 1), groups=3, stride=2)
    x = net.conv("multiplied", net.relu("relu", x), (6, 1, 1, 1), groups=3)
    net.head(x, 6, 10)
    other = load_model(net.save(tmp_path / "other.onnx", (3, 16, 16), 10)).graph
    assert not [node.name for node in other if is_norm(node)]


def test_an_engine_that_gains_nothing_keeps_the_convolution():
    for name, wanted in (("onnxruntime", False), ("openvino", True)):
        pytest.importorskip(name)
        assert get_backend(name).qdq_rules("cpu").float_norms is wanted


@pytest.mark.parametrize("ends_in", ["Conv", "GlobalAveragePool"])
def test_what_gives_the_answer_is_told_as_float_where_outputs_must_be_quantized(tmp_path, ends_in):
    net = NetBuilder()
    x = net.relu("relu", net.conv("first", "input", (8, 3, 3, 3)))
    if ends_in == "Conv":
        x = net.conv("last", net.add("GlobalAveragePool", "pool", [x]), (10, 8, 1, 1))
    else:
        x = net.conv("second", x, (10, 8, 3, 3))
        x = net.add("GlobalAveragePool", "last", [x])
    net.nodes.append(onnx.helper.make_node("Flatten", [x], ["logits"], name="flat", axis=1))
    graph = load_model(net.save(tmp_path / "net.onnx", (3, 16, 16), 10)).graph
    placement = place(graph, FUSING)
    assert "which the answer is not" in placement.float_nodes["last"]
    assert "last" not in placement.quantized_nodes
    assert "last" in place(graph, SYMMETRIC).quantized_nodes
