"""What an engine runs in INT8 is told as INT8, where its kernels say it in ways of their own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgeres.backends import get_backend
from edgeres.backends.base import BuildConfig, LayerInfo
from edgeres.evaluation.coverage import int8_coverage, layers_by_node, node_precision
from edgeres.graph.layers import load_model
from edgeres.graph.summary import node_macs
from edgeres.quantization.calibrate import calibrate
from edgeres.quantization.placement import place
from edgeres.quantization.quantize import quantize

pytestmark = pytest.mark.any_cpu("how layers are told, not what INT8 engines answer")
LEAKY = """
    c = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(x, w, b) l = LeakyRelu<alpha=0.1>(c)
    d = Conv<kernel_shape=[1,1]>(l, k, b) m = LeakyRelu<alpha=0.1>(d) a = Add(l, m)
    p = GlobalAveragePool(a) f = Flatten<axis=1>(p) y = Gemm<transB=1>(f, fw, fb)
"""
POSITIONS = """
    c = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(x, w, b) v = Reshape(c, rows)
    t = Transpose<perm=[0,2,1]>(v) q = Reshape(t, lines) m = MatMul(q, e) u = Reshape(m, square)
    z = Softmax<axis=2>(u) o = MatMul(z, t) h = Transpose<perm=[0,2,1]>(o) i = Reshape(h, image)
    a = Add(i, c) p = GlobalAveragePool(a) f = Flatten<axis=1>(p) y = Gemm<transB=1>(f, fw, fb)
"""
SUMS = """
    c = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(x, w, b) l = LeakyRelu<alpha=0.1>(c)
    d = Conv<kernel_shape=[1,1]>(l, k, b) s = Sigmoid(d) m = Mul(d, s) a = Add(m, l)
    e1 = Conv<kernel_shape=[1,1]>(a, k, b) n = HardSwish(e1) o = Add(n, a)
    p = GlobalAveragePool(o) f = Flatten<axis=1>(p) y = Gemm<transB=1>(f, fw, fb)
"""
ATTENTION = """
    c = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(x, w, b) v = Reshape(c, rows)
    t = Transpose<perm=[0,2,1]>(v) m = MatMul(t, v) s = Mul(m, half) u = Reshape(s, square)
    z = Softmax<axis=2>(u) r = MatMul(t, e4) g = MatMul(z, r) j = Add(g, bias)
    h = Transpose<perm=[0,2,1]>(j) i = Reshape(h, image)
    a = Add(i, c) p = GlobalAveragePool(a) f = Flatten<axis=1>(p) y = Gemm<transB=1>(f, fw, fb)
"""
FLOAT_SUM = """
    c = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(x, w, b) r = Relu(c)
    q = AveragePool<kernel_shape=[2,2], strides=[2,2]>(r) l = Pad(q, around)
    d = Conv<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(r, k3, b)
    g = Pad(d, around) a = Add(l, g) s = Relu(a) o = Conv<kernel_shape=[1,1]>(s, k, b)
    p = GlobalAveragePool(o) f = Flatten<axis=1>(p) y = Gemm<transB=1>(f, fw, fb)
"""
SHAPES = {"w": (8, 3, 3, 3), "k": (8, 8, 1, 1), "e": (4, 64), "b": 8, "fw": (4, 8), "fb": 4}
SHAPES |= {"k3": (8, 8, 3, 3), "e4": (4, 4), "bias": (64, 4)}
NUMBERS = {"rows": [-1, 4, 64], "lines": [-1, 8, 8, 4], "square": [-1, 64, 64]}
NUMBERS |= {"image": [-1, 8, 8, 8], "half": np.float32(0.5)}
NUMBERS |= {"around": [0, 0, 1, 1, 0, 0, 1, 1]}


def run(folder: Path, body: str, name: str) -> tuple[Path, Any, list[LayerInfo]]:
    """The float network, the rules, and the layers of the INT8 engine."""
    backend = get_backend(name)
    if backend.missing() is not None:
        pytest.skip(f"needs {name}")
    random = np.random.default_rng(0)
    graph = onnx.parser.parse_graph(f"net (float[N,3,8,8] x) => (float[N,4] y) {{ {body} }}")
    for number, node in enumerate(graph.node):
        node.name = f"{node.op_type}{number}"
    read = {name for node in graph.node for name in node.input}
    values: Mapping[str, np.ndarray[Any, Any]] = {
        **{n: (random.standard_normal(s) / 4).astype(np.float32) for n, s in SHAPES.items()},
        **{n: np.array(sizes) for n, sizes in NUMBERS.items()},
    }
    graph.initializer.extend(numpy_helper.from_array(v, n) for n, v in values.items() if n in read)
    source, qdq = folder / "net.onnx", folder / "qdq.onnx"
    opsets = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), source)
    images = random.standard_normal((16, 3, 8, 8)).astype(np.float32)
    rules = backend.qdq_rules("cpu")
    quantize(source, calibrate(source, [images]), rules, qdq)
    engine = backend.build(qdq, folder / f"engine{backend.engine_suffix}", BuildConfig(threads=1))
    return source, rules, list(backend.layers(engine))


def test_a_leaky_relu_between_int8_layers(tmp_path):
    source, rules, layers = run(tmp_path, LEAKY, "onnxruntime")
    ran = {name: layer.precision for layer in layers for name in layer.nodes}
    assert ran["LeakyRelu1"] == ran["LeakyRelu3"] == "int8"
    assert place(load_model(source).graph, rules).float_nodes == {}


def test_a_product_whose_zero_point_is_put_right_behind_it(tmp_path):
    source, _, layers = run(tmp_path, POSITIONS, "openvino")
    products = [layer.precision for layer in layers if layer.name == "MatMul4"]
    assert products == ["int8"]
    coverage = int8_coverage(node_macs(source), layers)
    assert coverage.float_layers == ()


def test_a_sum_of_integers_and_floats(tmp_path):
    source, rules, layers = run(tmp_path, FLOAT_SUM, "openvino")
    ran = {node: node_precision(found) for node, found in layers_by_node(layers).items()}
    assert set(place(load_model(source).graph, rules).float_nodes) == {"Add6"}
    assert ran["Add6"] == "float32"


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_products_of_computed_tensors(tmp_path, name):
    source, rules, layers = run(tmp_path, ATTENTION, name)
    placed = place(load_model(source).graph, rules)
    ran = {node: node_precision(found) for node, found in layers_by_node(layers).items()}
    assert {"MatMul3", "MatMul8"} <= set(placed.quantized_nodes)
    assert int8_coverage(node_macs(source), layers).float_layers == ()
    assert [node for node in placed.float_nodes if ran.get(node) == "int8"] == []


def test_sums_behind_an_activation_inside_a_layer(tmp_path):
    source, rules, layers = run(tmp_path, SUMS, "openvino")
    inside = {name: layer.op for layer in layers for name in layer.nodes}
    assert inside["Add5"] == inside["Add8"] == "Convolution"
    assert place(load_model(source).graph, rules).float_nodes == {}
    assert int8_coverage(node_macs(source), layers).int8_coverage == 1.0
