"""Faults planted in single layers of the reference network: which layer, and what is said of it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgeres.evaluation.layerwise import compare
from edgeres.stages.network import build

from .conftest import ENGINES, GREY, LAYER, engine_of, with_weight_scale


@pytest.mark.parametrize("name", ENGINES)
def test_a_layer_with_a_wrong_scale_is_named(run, images, tmp_path, name) -> None:
    engine_of(run, name)
    bad = with_weight_scale(run / name / "model.qdq.onnx", tmp_path / "bad.onnx", 2.0)
    engine = build(bad, tmp_path / "engine", target=name, threads=1)
    for model in (engine.path, bad):
        found = compare(
            run / "baseline" / "model.onnx", model, images, GREY, sources=[bad], threads=1
        )
        assert found.suspects[0].node == LAYER
        assert found.suspects[0].kind == "quantization"
        assert found.suspects[0].cause == "weight-scale"
        assert "its weights are 2.00 times those of the reference" in found.suspects[0].text
        assert found.worst_first[0].node == LAYER
        # The one behind may clip what is now out of its range; no other is named.
        assert {s.node for s in found.suspects} <= {LAYER, "layer2.1.conv2", "layer2.1.add"}
    # From the good Q/DQ file's point of view every other layer is as it should be.
    found = compare(
        run / name / "model.qdq.onnx", engine.path, images, GREY, sources=[bad], threads=1
    )
    assert [s.node for s in found.suspects] == [LAYER]
    assert all(x.own_sqnr_db > 45 for x in found.layers if x.node != LAYER)


@pytest.mark.parametrize("layer", ["conv1", "layer2.0.downsample.0", "layer3.2.conv2", "fc"])
def test_wherever_a_scale_is_doubled_that_layer_comes_first(run, images, tmp_path, layer) -> None:
    engine_of(run, "onnxruntime")
    qdq = run / "onnxruntime" / "model.qdq.onnx"
    bad = with_weight_scale(qdq, tmp_path / "bad.onnx", 2.0, layer)
    few = images.subset(range(6))
    found = compare(run / "baseline" / "model.onnx", bad, few, GREY, threads=1)
    assert found.suspects[0].node == found.worst_first[0].node == layer


def test_a_layer_left_float_and_one_that_is_not_fused_are_named(run, images, tmp_path) -> None:
    name = "onnxruntime"
    engine_of(run, name)
    model = onnx.load(run / name / "model.qdq.onnx")
    # The engine fuses DQ -> op -> Q; a layer whose output goes on as float cannot run in INT8.
    conv = next(node for node in model.graph.node if node.name == LAYER)
    relu = next(node for node in model.graph.node if conv.output[0] in node.input)
    pair = [n for n in model.graph.node if n.name.startswith(f"{relu.output[0]}_")]
    assert [n.op_type for n in pair] == ["QuantizeLinear", "DequantizeLinear"]
    for node in model.graph.node:
        for index, tensor in enumerate(node.input):
            if tensor == pair[1].output[0]:
                node.input[index] = relu.output[0]
    for node in pair:
        model.graph.node.remove(node)
    onnx.save(model, tmp_path / "unfused.onnx")
    engine = build(tmp_path / "unfused.onnx", tmp_path / "engine", target=name, threads=1)
    found = compare(run / "baseline" / "model.onnx", engine.path, images, GREY, threads=1)
    kinds = {(s.node, s.kind) for s in found.suspects}
    assert (LAYER, "unfused") in kinds
    # The layer behind reads float now, and says so itself.
    assert ("layer2.1.conv2", "float") in kinds
    assert {node for node, _ in kinds} == {LAYER, "layer2.1.conv2"}


def with_activation(qdq, out, change, *, dequantize_only=False):
    """A Q/DQ file in which the scale behind one layer is another."""
    model = onnx.load(qdq)
    old = next(
        node.input[1]
        for node in model.graph.node
        if node.op_type == "QuantizeLinear" and node.input[0] in outputs_behind(model, LAYER)
    )
    (scale,) = (t for t in model.graph.initializer if t.name == old)
    model.graph.initializer.append(
        numpy_helper.from_array(change(numpy_helper.to_array(scale)), "s")
    )
    ops = {"DequantizeLinear"} if dequantize_only else {"QuantizeLinear", "DequantizeLinear"}
    changed = [n for n in model.graph.node if n.op_type in ops and n.input[1] == old]
    assert changed
    for node in changed:
        node.input[1] = "s"
    onnx.save(model, out)
    return out


def outputs_behind(model, layer):
    """Output of a layer and of the Relu behind it."""
    conv = next(node for node in model.graph.node if node.name == layer)
    relu = [n for n in model.graph.node if n.op_type == "Relu" and conv.output[0] in n.input]
    return {conv.output[0], *(n.output[0] for n in relu)}


@pytest.mark.parametrize(
    ("cause", "change", "dequantize_only"),
    [
        ("activation-scale", lambda s: s * np.float32(2), True),
        ("range", lambda s: s * np.float32(0.1), False),
        ("range", lambda s: s * np.float32(100), False),
    ],
    ids=["unlike pair", "too small", "too large"],
)
def test_the_cause_is_the_one_that_was_planted(
    run, images, tmp_path, cause, change, dequantize_only
) -> None:
    engine_of(run, "onnxruntime")
    good = run / "onnxruntime" / "model.qdq.onnx"
    bad = with_activation(good, tmp_path / "bad.onnx", change, dequantize_only=dequantize_only)
    found = compare(run / "baseline" / "model.onnx", bad, images.subset(range(6)), GREY, threads=1)
    assert (found.suspects[0].node, found.suspects[0].cause) == (LAYER, cause)


def test_one_channel_with_a_wrong_scale_is_counted(run, images, tmp_path) -> None:
    engine_of(run, "onnxruntime")
    factor = np.ones(32, np.float32)
    factor[3] = 20
    bad = with_weight_scale(
        run / "onnxruntime" / "model.qdq.onnx", tmp_path / "bad.onnx", factor, LAYER
    )
    found = compare(run / "baseline" / "model.onnx", bad, images.subset(range(6)), GREY, threads=1)
    assert found.suspects[0].cause == "weight-scale"
    assert "times those of the reference in 1 of 32 output channels" in found.suspects[0].text
