"""The normal form as a whole: names, bytes, a free batch, and what has no such form."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeres.errors import ModelError
from edgeres.exporting.passes import normal_form, to_bytes

from .small_graphs import CONV_WEIGHTS, HEAD, HEAD_WEIGHTS, floats, weights


def test_names_are_unique_and_follow_the_nodes(build_graph, normalize) -> None:
    model = build_graph(
        f"a = Conv(x, w) b = Relu(a) d = Sigmoid(b) c = Relu(d) {HEAD}", CONV_WEIGHTS
    )
    model.graph.node[0].name = "stem"
    model.graph.node[1].name = model.graph.node[3].name = "act"
    result = normalize(model)
    names = [node.name for node in result.graph.node]
    assert names == ["stem", "act", "sigmoid", "act_1", "globalaveragepool", "flatten", "gemm"]
    assert [o for n in result.graph.node for o in n.output][:2] == ["stem.out", "act.out"]
    assert list(weights(result)) == ["gemm.bias", "gemm.weight", "stem.bias", "stem.weight"]


def test_metadata_goes(build_graph, normalize) -> None:
    model = build_graph(f"b = Conv(x, w) c = Relu(b) {HEAD}", CONV_WEIGHTS)
    model.producer_name, model.producer_version, model.doc_string = "pytorch", "2.13", "secret"
    model.graph.doc_string = "secret"
    onnx.helper.set_model_props(model, {"path": "/home/secret"})
    for node in model.graph.node:
        node.doc_string = "/home/secret/net.py"
        node.metadata_props.add(key="pkg.torch.onnx.stack_trace", value="secret")
    model.graph.initializer[0].doc_string = "secret"
    result = normalize(model).SerializeToString()
    assert b"secret" not in result
    assert b"pytorch" not in result


def test_equal_networks_give_equal_bytes(build_graph, normalize) -> None:
    one = build_graph(f"c = Conv(x, w) {HEAD}", CONV_WEIGHTS)
    other = build_graph(
        'cc = Conv<auto_pad="VALID">(x, k) pp = ReduceMean(cc, axes) ff = Flatten(pp)'
        "y = Gemm<transB=1>(ff, m, n)",
        {
            "n": HEAD_WEIGHTS["fb"],
            "axes": np.array([2, 3]),
            "m": HEAD_WEIGHTS["fw"],
            "k": CONV_WEIGHTS["w"],
        },
    )
    assert normalize(one).SerializeToString() == normalize(other).SerializeToString()


def test_normal_form_is_stable(build_graph, normalize) -> None:
    once = normalize(build_graph(f"b = Conv(x, w) c = Relu(b) {HEAD}", CONV_WEIGHTS))
    assert normalize(once).SerializeToString() == once.SerializeToString()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_numbers_are_named(build_graph, normalize, bad) -> None:
    broken = CONV_WEIGHTS["w"].copy()
    broken[0, 0, 0, 0] = bad
    with pytest.raises(ModelError, match="Weights 'w' hold 1 values that are NaN or infinite"):
        normalize(build_graph(f"c = Conv(x, w) {HEAD}", {**CONV_WEIGHTS, "w": broken}))


def test_training_mode_is_refused(build_graph, normalize) -> None:
    model = build_graph(
        f"b = Conv(x, w) c, m2, v2 = BatchNormalization<training_mode=1>(b, g, g, g, g) {HEAD}",
        {**CONV_WEIGHTS, "g": np.abs(floats(8)) + 1},
    )
    with pytest.raises(ModelError, match="is in training mode"):
        normalize(model)


def test_computed_weights_are_refused(build_graph, normalize) -> None:
    model = build_graph(f"s = ReduceMean(x) k = Mul(w, s) c = Conv(x, k) {HEAD}", CONV_WEIGHTS)
    with pytest.raises(ModelError, match="Expected constant weights at Conv"):
        normalize(model)


def test_batch_mixed_into_the_classes_is_refused(build_graph, normalize) -> None:
    model = build_graph(
        "c = Conv(x, w) p = GlobalAveragePool(c) f = Reshape(p, to) y = Gemm<transB=1>(f, fw, fb)",
        {**CONV_WEIGHTS, "fw": floats(4, 4), "to": np.array([2, 4])},
        image="float[1,3,6,6] x",
    )
    with pytest.raises(ModelError, match="whatever the batch is"):
        normalize(model)


@pytest.mark.parametrize("kind", ["reshape", "resize"])
def test_the_batch_stays_free_where_shape_inference_loses_its_name(kind):
    """``Reshape`` to ``(-1, ...)``, as around a Conv1d or GroupNorm, and ``Resize``."""
    weights = [
        numpy_helper.from_array(np.ones((4, 3, 1, 1), np.float32), "w"),
        numpy_helper.from_array(np.ones((2, 4, 3), np.float32), "v"),
        numpy_helper.from_array(np.array([-1, 4, 64], np.int64), "flat"),
        numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales"),
        numpy_helper.from_array(np.array([2], np.int64), "last"),
        numpy_helper.from_array(np.array([2, 3], np.int64), "map"),
    ]
    behind = {
        "reshape": [
            helper.make_node("Reshape", ["c", "flat"], ["r"]),
            helper.make_node("Conv", ["r", "v"], ["d"], kernel_shape=[3]),
            helper.make_node("ReduceMean", ["d", "last"], ["y"], keepdims=0),
        ],
        "resize": [
            helper.make_node("Resize", ["c", "", "scales"], ["r"], mode="nearest"),
            helper.make_node("ReduceMean", ["r", "map"], ["y"], keepdims=0),
        ],
    }[kind]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["c"]), *behind],
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", None])],
        weights,
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    model = ir.from_proto(proto)
    normal_form(model)
    assert all(str(value.shape[0]) == "N" for n in model.graph for value in n.outputs)
    to_bytes(model)
