"""1x1 convolutions with a stride: INT8 on the engine, whoever else reads their image."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest

from edgeres.backends import get_backend
from edgeres.backends.base import BuildConfig
from edgeres.evaluation.coverage import int8_coverage
from edgeres.graph.summary import node_macs
from edgeres.quantization.calibrate import calibrate
from edgeres.quantization.quantize import quantize
from edgeres.quantization.simulate import simulated_logits

from .conftest import SYMMETRIC, NetBuilder, smooth_images

CONFIG = BuildConfig(device="cpu", threads=1)


def network(folder, *, shared: bool = False):
    """A shortcut with a stride whose image the main path reads through a PRelu, in float."""
    net = NetBuilder()
    x = net.relu("stem.relu", net.conv("stem", "input", (16, 3, 3, 3)))
    slopes = net.weight("slopes", net.random.uniform(0.1, 0.4, (16, 1, 1)))
    main = x if shared else net.add("PRelu", "prelu", [x, slopes])
    main = net.conv("main", main, (32, 16, 3, 3), stride=2)
    skip = net.conv("down", x, (32, 16, 1, 1), stride=2)
    net.head(net.relu("relu", net.add("Add", "add", [main, skip])), 32, 10)
    return net.save(folder / "net.onnx", (3, 16, 16), 10)


def ops(path):
    return [node.op_type for node in onnx.load(path).graph.node]


def test_the_engine_runs_the_shortcut_in_int8(tmp_path):
    pytest.importorskip("openvino")
    source, images = network(tmp_path), smooth_images(32)
    table = calibrate(source, [images])
    backend = get_backend("openvino")
    rules = backend.qdq_rules("cpu")
    shares = {}
    for sinks in (True, False):
        out = tmp_path / f"{sinks}.onnx"
        quantize(source, table, replace(rules, sinks_strides=sinks), out)
        engine = backend.build(out, tmp_path / f"{sinks}.xml", CONFIG)
        shares[sinks] = int8_coverage(node_macs(source), backend.layers(engine))
    assert shares[True].int8_coverage == 1.0
    # The fault that the rule is for: once this fails, the engine is right and the rule can go.
    assert [layer.name for layer in shares[False].float_layers] == ["down"]


def test_the_arithmetic_is_the_same(tmp_path):
    source, images = network(tmp_path), smooth_images(32)
    table = calibrate(source, [images])
    for sinks in (True, False):
        rules = replace(SYMMETRIC, sinks_strides=sinks)
        quantize(source, table, rules, tmp_path / f"{sinks}.onnx")
    first, second = (simulated_logits(tmp_path / f"{s}.onnx", [images]) for s in (True, False))
    np.testing.assert_array_equal(first, second)
    assert ops(tmp_path / "True.onnx").count("MaxPool") == 1


def test_an_image_that_another_layer_reads_needs_no_pool(tmp_path):
    source = network(tmp_path, shared=True)
    table = calibrate(source, [smooth_images(32)])
    rules = replace(SYMMETRIC, sinks_strides=True)
    quantize(source, table, rules, tmp_path / "qdq.onnx")
    assert "MaxPool" not in ops(tmp_path / "qdq.onnx")
