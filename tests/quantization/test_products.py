"""Products of two computed tensors (attention): where Q/DQ stands, with which zero points."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgeres.backends import get_backend
from edgeres.backends.base import BuildConfig
from edgeres.evaluation.coverage import layers_by_node, node_precision
from edgeres.graph.layers import load_model
from edgeres.quantization.calibrate import calibrate
from edgeres.quantization.lint import lint
from edgeres.quantization.placement import KEPT_FLOAT, place
from edgeres.quantization.quantize import quantize

from .conftest import FUSING, attention_network, context_network

RULES = replace(FUSING, ops=FUSING.ops | {"MatMul"}, quantize_outputs=False, bias="float")
PLAIN = replace(RULES, products="activations")
ZERO_CENTRED = replace(RULES, products="symmetric")


@pytest.fixture
def source(tmp_path):
    return attention_network(tmp_path / "net.onnx")


@pytest.fixture
def table(source):
    random = np.random.default_rng(0)
    return calibrate(source, [random.standard_normal((16, 3, 8, 8)).astype(np.float32)])


def stored_scales(path):
    graph = onnx.load(path).graph
    values = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    return {
        node.input[0]: (values[node.input[1]], values[node.input[2]])
        for node in graph.node
        if node.op_type == "QuantizeLinear"
    }


def test_both_inputs_are_quantized_where_the_engine_takes_them(source):
    graph = load_model(source).graph
    placement = place(graph, PLAIN)
    assert {"scores", "seen", "mixed"} <= set(placement.quantized_nodes)
    assert [layer.name for layer in placement.layers] == ["stem", "mixed", "fc"]
    assert {("scores", 0), ("mixed", 0)} == {
        (node.name, index) for node, index in placement.readers["turned_out"]
    }
    assert ("scores", 1) in {(n.name, at) for n, at in placement.readers["rows_of_out"]}
    assert "logits" not in placement.tensors


def test_they_stay_float_with_a_reason_elsewhere(source):
    graph = load_model(source).graph
    assert "two computed tensors" in place(graph, RULES).float_nodes["scores"]
    kept = place(graph, replace(PLAIN, keep_float=frozenset({"seen"})))
    assert kept.float_nodes["seen"] == KEPT_FLOAT
    assert "scores" in kept.quantized_nodes


def test_zero_points_are_those_that_the_engine_is_quick_with(source, table, tmp_path):
    results = {}
    for rules in (PLAIN, ZERO_CENTRED):
        out = tmp_path / f"{rules.products}.onnx"
        result = quantize(source, table, rules, out)
        assert result.findings == ()
        assert lint(out, rules) == ()
        results[rules.products] = stored_scales(out)
    assert {zero.dtype for _, zero in results["activations"].values()} == {np.dtype("uint8")}
    assert results["activations"]["rows_of_out"][1] > 0
    zeros = {name: zero for name, (_, zero) in results["symmetric"].items()}
    for name in ("rows_of_out", "turned_out", "mixed_out"):
        assert (zeros[name].dtype, int(zeros[name])) == (np.dtype("int8"), 0)
    # Nothing is below zero there, so that uint8 has the zero point 0 and one bit more.
    assert (zeros["softmax_out"].dtype, int(zeros["softmax_out"])) == (np.dtype("uint8"), 0)
    assert zeros["input"].dtype == np.dtype("uint8")


def test_a_second_factor_is_int8_whatever_its_sign(tmp_path):
    source, out = context_network(tmp_path / "net.onnx"), tmp_path / "qdq.onnx"
    images = np.random.default_rng(0).standard_normal((16, 3, 8, 8)).astype(np.float32)
    quantize(source, calibrate(source, [images]), ZERO_CENTRED, out)
    zeros = {name: zero for name, (_, zero) in stored_scales(out).items()}
    assert zeros["turned_out"].dtype == np.dtype("int8")
    assert lint(out, ZERO_CENTRED) == ()
    model = onnx.load(out)
    for each in model.graph.initializer:
        if each.name == "turned_out_zero_point":
            each.CopyFrom(numpy_helper.from_array(np.uint8(0), each.name))
    onnx.save(model, out)
    found = [(each.rule, each.node) for each in lint(out, ZERO_CENTRED)]
    assert found == [("activation-dtype", "context")]


@pytest.mark.parametrize("network", [attention_network, context_network])
def test_the_engine_runs_in_int8_what_the_account_says(network, tmp_path):
    backend = get_backend("openvino")
    if backend.missing() is not None:
        pytest.skip("needs openvino")
    source, out = network(tmp_path / "net.onnx"), tmp_path / "qdq.onnx"
    images = np.random.default_rng(0).standard_normal((16, 3, 8, 8)).astype(np.float32)
    rules = backend.qdq_rules("cpu")
    quantize(source, calibrate(source, [images]), rules, out)
    engine = backend.build(out, tmp_path / f"engine{backend.engine_suffix}", BuildConfig(threads=1))
    ran = {
        node: node_precision(layers)
        for node, layers in layers_by_node(backend.layers(engine)).items()
    }
    placed = place(load_model(source).graph, rules)
    products = [n.name for n in onnx.load(source).graph.node if n.op_type == "MatMul"]
    for name in products:
        assert (ran[name] in ("int8", "uint8")) == (name in placed.quantized_nodes)


def test_lint_tells_a_product_that_reads_floats(source, table, tmp_path):
    out = tmp_path / "float.onnx"
    quantize(source, table, RULES, out)
    found = {(each.rule, each.node) for each in lint(out, PLAIN)}
    assert {("float-input", "scores"), ("float-input", "seen")} <= found
    assert not {each.node for each in lint(out, RULES)} & {"scores", "seen"}


def test_lint_takes_int8_there_with_the_zero_point_0_only(source, table, tmp_path):
    out = tmp_path / "int8.onnx"
    quantize(source, table, ZERO_CENTRED, out)
    assert "activation-dtype" in {each.rule for each in lint(out, PLAIN)}
    model = onnx.load(out)
    for each in model.graph.initializer:
        if each.name == "turned_out_zero_point":
            each.CopyFrom(numpy_helper.from_array(np.int8(3), each.name))
    onnx.save(model, out)
    assert "activation-dtype" in {each.rule for each in lint(out, ZERO_CENTRED)}
