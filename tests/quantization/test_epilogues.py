"""What runs inside an INT8 layer, and Adds and Muls that gain nothing from INT8."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest

from edgeres.backends import get_backend
from edgeres.backends.base import BuildConfig
from edgeres.evaluation.coverage import layers_by_node, node_precision
from edgeres.graph.layers import load_model
from edgeres.quantization.calibrate import calibrate
from edgeres.quantization.placement import place
from edgeres.quantization.quantize import quantize

from .conftest import FUSING, SYMMETRIC, NetBuilder, smooth_images

CONFIG = BuildConfig(device="cpu", threads=1)
INSIDE = replace(SYMMETRIC, epilogues=frozenset({"Sigmoid", "PRelu"}), float_adds=True)


def gated(net: NetBuilder, name: str, x: str) -> str:
    """Squeeze and excitation: a gate for each channel."""
    gate = net.conv(f"{name}.fc", net.add("GlobalAveragePool", f"{name}.pool", [x]), (8, 8, 1, 1))
    gate = net.add("Sigmoid", f"{name}.sigmoid", [gate])
    return net.add("Mul", f"{name}.scale", [x, gate])


def network(folder):
    """SiLU, a PRelu whose image others read, SE in front of one Add and behind the other."""
    net = NetBuilder()
    x = net.conv("stem", "input", (8, 3, 3, 3))
    x = net.add("Mul", "silu", [x, net.add("Sigmoid", "silu.sigmoid", [x])])
    y = net.conv("first", x, (8, 8, 3, 3))
    slopes = net.weight("slopes", net.random.uniform(0.1, 0.4, (8, 1, 1)))
    y = net.add("Add", "shared", [y, net.add("PRelu", "prelu", [y, slopes])])
    x = net.relu("relu1", net.add("Add", "gated", [gated(net, "se", y), x]))
    main = gated(net, "se2", net.conv("second", x, (8, 8, 3, 3)))
    x = net.add("Add", "projected", [main, net.conv("down", x, (8, 8, 1, 1))])
    x = net.relu("relu2", x)
    x = net.relu("relu3", net.add("Add", "plain", [net.conv("third", x, (8, 8, 3, 3)), x]))
    net.head(x, 8, 10)
    return net.save(folder / "net.onnx", (3, 16, 16), 10)


def test_only_what_a_layer_takes_in_is_left_out_of_the_float_nodes(tmp_path):
    graph = load_model(network(tmp_path)).graph
    told = place(graph, INSIDE).float_nodes
    assert {"silu", "silu.sigmoid", "se.sigmoid", "se2.sigmoid", "projected"}.isdisjoint(told)
    assert {"prelu", "se.scale", "se2.scale", "gated"} <= set(told)
    assert "no INT8 layer gives the main input" in told["gated"]
    alone = place(graph, SYMMETRIC).float_nodes
    assert {"silu", "silu.sigmoid", "se.sigmoid"} <= set(alone)


def test_an_add_in_float_reads_no_qdq(tmp_path):
    graph = load_model(network(tmp_path)).graph
    reads = {
        rules: {node.name for uses in place(graph, rules).readers.values() for node, _ in uses}
        for rules in (INSIDE, SYMMETRIC)
    }
    assert {"gated", "projected", "plain"} <= reads[SYMMETRIC]
    assert reads[INSIDE] & {"gated", "projected", "plain"} == {"plain"}


def test_both_inputs_of_a_mul_are_quantized_and_its_output(tmp_path):
    rules = replace(FUSING, ops=FUSING.ops | {"Mul", "Sigmoid"})
    placement = place(load_model(network(tmp_path)).graph, rules)
    assert {"silu", "se.scale", "se.sigmoid"} <= set(placement.quantized_nodes)
    inputs = {(node.name, index) for uses in placement.readers.values() for node, index in uses}
    assert {("silu", 0), ("silu", 1), ("se.scale", 0), ("se.scale", 1)} <= inputs
    assert "silu_out" in placement.tensors


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_the_account_says_what_the_engine_does(tmp_path, name):
    pytest.importorskip(name)
    source, images = network(tmp_path), smooth_images(32)
    backend, out = get_backend(name), tmp_path / "qdq.onnx"
    told = quantize(source, calibrate(source, [images]), backend.qdq_rules("cpu"), out)
    engine = backend.build(out, tmp_path / f"engine{backend.engine_suffix}", CONFIG)
    ran = {node: node_precision(ls) for node, ls in layers_by_node(backend.layers(engine)).items()}
    kinds = {node.name: node.op_type for node in onnx.load(source).graph.node}
    weighty = {n for n in told.quantized_nodes if kinds[n] in ("Conv", "Gemm", "Mul", "Sigmoid")}
    assert {node: ran.get(node) for node in weighty if ran.get(node) != "int8"} == {}
    assert {node for node in told.float_nodes if ran.get(node) == "int8"} == set()


def gelu(net: NetBuilder, name: str, x: str, *, half_first: bool) -> str:
    """In five nodes, as exporters write it."""
    root, one, half = (
        net.weight(f"{name}.{what}", np.float32(value))
        for what, value in (("root", 2**0.5), ("one", 1.0), ("half", 0.5))
    )
    erf = net.add("Erf", f"{name}.erf", [net.add("Div", f"{name}.scaled", [x, root])])
    shifted = net.add("Add", f"{name}.shifted", [erf, one])
    if half_first:
        halved = net.add("Mul", f"{name}.halved", [x, half])
        return net.add("Mul", f"{name}.product", [halved, shifted])
    product = net.add("Mul", f"{name}.product", [x, shifted])
    return net.add("Mul", f"{name}.halved", [product, half])


@pytest.mark.parametrize("half_first", [False, True])
def test_a_written_out_gelu_is_told_as_the_engine_runs_it(tmp_path, half_first):
    pytest.importorskip("openvino")
    net = NetBuilder()
    x = gelu(net, "inside", net.conv("stem", "input", (8, 3, 3, 3)), half_first=half_first)
    y = net.conv("second", x, (8, 8, 3, 3))
    y = net.add("Add", "others", [gelu(net, "read", y, half_first=half_first), y])
    net.head(y, 8, 10)
    onnx_file = net.save(tmp_path / "net.onnx", (3, 16, 16), 10)
    backend = get_backend("openvino")
    rules = backend.qdq_rules("cpu")
    told = place(load_model(onnx_file).graph, rules).float_nodes
    parts = ("erf", "scaled", "shifted", "product", "halved")
    assert not {f"inside.{part}" for part in parts} & set(told)
    assert {f"read.{part}" for part in parts} <= set(told)
    quantize(onnx_file, calibrate(onnx_file, [smooth_images(8)]), rules,
             tmp_path / "qdq.onnx")  # fmt: skip
    engine = backend.build(tmp_path / "qdq.onnx", tmp_path / "net.xml", CONFIG)
    ran = {name: node_precision(found)
           for name, found in layers_by_node(backend.layers(engine)).items()}  # fmt: skip
    assert {ran[name] for name in ran if name.startswith("inside.")} == {"int8"}


@pytest.mark.parametrize(("value", "is_told"), [(None, False), (0.0, False), (1.5, True)])
def test_a_pad_of_zeros_is_no_arithmetic_that_stays_float(tmp_path, value, is_told):
    net = NetBuilder()
    x = net.conv("first", "input", (8, 3, 3, 3))
    net.initializers.append(onnx.numpy_helper.from_array(np.array([0, 0, 1, 1] * 2), "pads"))
    more = [] if value is None else [net.weight("value", np.float32(value))]
    x = net.add("Pad", "pad", [x, "pads", *more])
    net.head(net.conv("second", x, (8, 8, 3, 3)), 8, 10)
    graph = load_model(net.save(tmp_path / "net.onnx", (3, 16, 16), 10)).graph
    rules = replace(SYMMETRIC, ops=SYMMETRIC.ops - {"Pad"})
    assert ("pad" in place(graph, rules).float_nodes) is is_told
