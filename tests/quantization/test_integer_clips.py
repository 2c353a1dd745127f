"""Clips behind Q/DQ keep their numbers where an engine clips integers."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from edgeres.quantization.integer_clips import guard_clips

SCALE = np.float32(0.05)


def guarded(low, high, dtype=np.uint8, zero=128, between=()):
    names = ["x", "d", *(f"m{i}" for i in range(len(between)))]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"], name="q"),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"], name="dq"),
    ]
    for index, op in enumerate(between):
        nodes.append(helper.make_node(op, [names[index + 1]], [names[index + 2]], name=op))
    bounds = {"low": low, "high": high}
    used = [name if bounds[name] is not None else "" for name in bounds]
    nodes.append(helper.make_node("Clip", [names[-1], *used], ["y"], name="clip"))
    constants = [
        numpy_helper.from_array(SCALE, "scale"), numpy_helper.from_array(dtype(zero), "zero"),
        *(numpy_helper.from_array(np.float32(b), n) for n, b in bounds.items() if b is not None),
    ]  # fmt: skip
    sides = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 3, 4, 4]) for n in ("x", "y")]
    shapes = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 3, 4, 4]) for n in names[1:]]
    graph = helper.make_graph(nodes, "net", sides[:1], sides[1:], constants, value_info=shapes)
    before = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)])
    model = ir.from_proto(before)
    guard_clips(model.graph)
    after = ir.to_proto(model)
    onnx.checker.check_model(after, full_check=True)
    image = np.random.default_rng(0).uniform(-9, 9, (1, 3, 4, 4)).astype(np.float32)
    first, second = (ReferenceEvaluator(each).run(None, {"x": image}) for each in (before, after))
    np.testing.assert_allclose(first[0], second[0], atol=1e-6)
    return {node.name: node for node in after.graph.node}, after.graph


@pytest.mark.parametrize(("dtype", "zero"), [(np.uint8, 128), (np.int8, 0)])
@pytest.mark.parametrize("between", [(), ("Relu", "Identity")])
def test_other_bounds_become_a_max_and_a_min_for_each_channel(dtype, zero, between):
    nodes, graph = guarded(-0.12, 0.333, dtype, zero, between)
    assert (nodes["clip.max"].op_type, nodes["clip"].op_type) == ("Max", "Min")
    shapes = {each.name: tuple(each.dims) for each in graph.initializer}
    assert shapes["clip.max.bound"] == shapes["clip.min.bound"] == (3, 1, 1)


def test_a_bound_at_the_end_of_the_integers_cuts_nothing():
    high = np.float32(6.35)  # 127 steps, in float32 a little less
    nodes, graph = guarded(0.0, high, np.int8, 0)
    assert nodes["clip"].op_type == "Clip"
    values = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    assert values[nodes["clip"].input[1]] == 0
    assert values[nodes["clip"].input[2]] == pytest.approx(128 * SCALE)


def test_only_what_is_there_and_cuts_is_written():
    nodes, _ = guarded(None, 0.333)
    assert "clip.max" not in nodes
    assert nodes["clip"].op_type == "Min"
    nodes, _ = guarded(-0.12, 50.0)
    assert nodes["clip"].op_type == "Max"


def test_a_clip_of_floats_stays():
    nodes, _ = guarded(-0.12, 0.333, between=("Sigmoid",))
    assert nodes["clip"].op_type == "Clip"


def test_a_clip_behind_put_together_and_scaled_integers_keeps_its_bounds():
    """Two readings of one tensor, one of them scaled: no grid is common, and the engine clips."""
    constants = [
        numpy_helper.from_array(SCALE, "scale"),
        numpy_helper.from_array(np.int8(0), "zero"),
        *(
            numpy_helper.from_array(np.float32(value), name)
            for name, value in (("factor", 28.4), ("low", -0.83), ("high", -0.3))
        ),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"], name="q"),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"], name="dq"),
        helper.make_node("Mul", ["d", "factor"], ["m"], name="mul"),
        helper.make_node("Concat", ["m", "d"], ["c"], name="concat", axis=1),
        helper.make_node("Clip", ["c", "low", "high"], ["y"], name="clip"),
    ]
    shapes = {"x": 3, "y": 6, "c": 6, "d": 3, "m": 3}
    values = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, channels, 4, 4])
        for name, channels in shapes.items()
    }
    graph = helper.make_graph(
        nodes, "net", [values["x"]], [values["y"]], constants,
        value_info=[values[name] for name in "cdm"],
    )  # fmt: skip
    model = ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)]))
    guard_clips(model.graph)
    after = ir.to_proto(model).graph
    assert [node.op_type for node in after.node][-2:] == ["Max", "Min"]
    shapes_after = {each.name: tuple(each.dims) for each in after.initializer}
    assert shapes_after["clip.max.bound"] == (6, 1, 1)
