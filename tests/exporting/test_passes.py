"""Each rule of the normal form on a graph that needs it; the fixture checks the values."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeres.errors import ModelError
from edgeres.exporting.passes import normal_form, to_bytes

RANDOM = np.random.default_rng(7)


def floats(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


HEAD = "p = GlobalAveragePool(c) f = Flatten(p) y = Gemm<transB=1>(f, fw, fb)"
HEAD_WEIGHTS = {"fw": floats(4, 8), "fb": floats(4)}
CONV_WEIGHTS = {"w": floats(8, 3, 3, 3), **HEAD_WEIGHTS}


def ops(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def attribute(model: onnx.ModelProto, op: str, name: str) -> object:
    node = next(n for n in model.graph.node if n.op_type == op)
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}[name]


def weights(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}


def test_batch_normalization_is_folded_and_conv_gets_a_bias(build_graph, normalize) -> None:
    model = build_graph(
        f"b = Conv(x, w) c = BatchNormalization<epsilon=0.01>(b, g, beta, mean, var) {HEAD}",
        {
            **CONV_WEIGHTS,
            "g": floats(8),
            "beta": floats(8),
            "mean": floats(8),
            "var": np.abs(floats(8)),
        },
    )
    assert ops(normalize(model)) == ["Conv", "GlobalAveragePool", "Flatten", "Gemm"]


def test_normalization_that_others_bypass_is_a_layer_of_its_own(build_graph, normalize) -> None:
    model = build_graph(
        f"b = Conv(x, w) n = BatchNormalization(b, g, g, g, g2) c = Add(n, b) {HEAD}",
        {**CONV_WEIGHTS, "g": floats(8), "g2": np.abs(floats(8)) + 1},
    )
    assert ops(normalize(model))[:3] == ["Conv", "Conv", "Add"]


@pytest.mark.parametrize(
    ("body", "folds"),
    [
        ("c = Mul(b, k)", True),
        ("c = Add(k, b)", True),
        ("c = Sub(b, k)", True),
        ("c = Sub(k, b)", True),
        ("c = Div(b, k)", True),
        ("c = Div(k, b)", False),
        ("m = Mul(b, k) c = Add(m, one)", True),
        ("c = Add(b, image)", False),
        ("c = Mul(b, row)", False),
    ],
)
def test_constants_per_channel_are_folded(build_graph, normalize, body, folds) -> None:
    model = build_graph(
        f"b = Conv(x, w, wb) {body} {HEAD}",
        {
            **CONV_WEIGHTS,
            "wb": floats(8),
            "k": floats(8, 1, 1) + 3,
            "one": np.float32(0.5),
            "image": floats(1, 8, 4, 4),
            "row": floats(4),
        },
    )
    assert (ops(normalize(model))[:2] == ["Conv", "GlobalAveragePool"]) is folds


def test_shared_weights_are_folded_apart(build_graph, normalize) -> None:
    model = build_graph(
        f"""a = Conv<pads=[1,1,1,1]>(x, v) b = Relu(a) d = Conv<pads=[1,1,1,1]>(b, v)
            e = Mul(d, k) c0 = Conv(e, w) c = Relu(c0) {HEAD}""",
        {**CONV_WEIGHTS, "v": floats(3, 3, 3, 3), "k": floats(3, 1, 1)},
    )
    assert len([n for n in weights(normalize(model)) if n.endswith("weight")]) == 4


@pytest.mark.parametrize(
    "body",
    [
        "p = ReduceMean<keepdims=1>(c, axes) f = Flatten(p)",
        "f = ReduceMean<keepdims=0>(c, axes)",
        "p = ReduceMean<keepdims=1>(c, negative) f = Squeeze(p, axes)",
        "v = Reshape(c, to_pixels) f = ReduceMean<keepdims=0>(v, rows)",
        "v = Reshape(c, to_pixels) p = ReduceMean<keepdims=1>(v, last) f = Flatten(p)",
        "q = ReduceMean<keepdims=0>(c, columns) f = ReduceMean<keepdims=0>(q, rows)",
        "q = ReduceMean<keepdims=0>(c, rows) f = ReduceMean<keepdims=0>(q, last)",
        "q = ReduceMean(c, columns) p = ReduceMean(q, rows) f = Flatten(p)",
        "p = AveragePool<kernel_shape=[4,4]>(c) f = Reshape(p, to_rows)",
        "t = Transpose<perm=[0,2,3,1]>(c) f = ReduceMean<keepdims=0>(t, nhwc)",
        "t = Transpose<perm=[0,2,3,1]>(c) p = ReduceMean<keepdims=1>(t, nhwc) f = Flatten(p)",
        "p = GlobalAveragePool(c) t = Transpose<perm=[0,2,3,1]>(p) f = Reshape(t, to_rows)",
        "p = GlobalAveragePool(c) r = Reshape(p, to_nhwc) f = Reshape(r, to_rows)",
        """p = GlobalAveragePool(c) s = Shape(p) n = Gather(s, first)
           n1 = Unsqueeze(n, zero) k = Constant<value_ints=[-1]>() to = Concat<axis=0>(n1, k)
           f = Reshape(p, to)""",
        """p = GlobalAveragePool(c) s = Shape<end=1>(p) k = Constant<value_ints=[8]>()
           to = Concat<axis=0>(s, k) f = Reshape<allowzero=1>(p, to)""",
    ],
)
def test_every_way_to_pool_and_flatten_is_one(build_graph, normalize, body) -> None:
    model = build_graph(
        f"b = Conv(x, w) c = Relu(b) {body} y = Gemm<transB=1>(f, fw, fb)",
        {
            **CONV_WEIGHTS,
            "axes": np.array([2, 3]),
            "negative": np.array([-1, -2]),
            "nhwc": np.array([1, 2]),
            "rows": np.array([2]),
            "columns": np.array([3]),
            "last": np.array([-1]),
            "to_pixels": np.array([-1, 8, 16]),
            "zero": np.array([0]),
            "first": np.array(0),
            "to_rows": np.array([-1, 8]),
            "to_nhwc": np.array([-1, 1, 1, 8]),
        },
    )
    result = normalize(model)
    assert ops(result) == ["Conv", "Relu", "GlobalAveragePool", "Flatten", "Gemm"]
    assert attribute(result, "Flatten", "axis") == 1


@pytest.mark.parametrize(
    "body",
    [
        "q = ReduceMean<keepdims=0>(c, channels) f = ReduceMean<keepdims=0>(q, rows)",
        "v = Reshape(c, to_rows8) f = ReduceMean<keepdims=0>(v, rows)",
    ],
)
def test_means_over_other_axes_stay(build_graph, normalize, body) -> None:
    model = build_graph(
        f"b = Conv(x, w) c = Relu(b) {body} y = Gemm<transB=1>(f, fw4)",
        {
            **CONV_WEIGHTS,
            "fw4": floats(4, 4) if "channels" in body else floats(4, 16),
            "rows": np.array([2]),
            "channels": np.array([1]),
            "to_rows8": np.array([-1, 16, 8]),
        },
    )
    found = ops(normalize(model))
    assert "ReduceMean" in found
    assert "GlobalAveragePool" not in found


@pytest.mark.parametrize("target", [[1, -1], [1, 8], [0, -1], [-1, 8]])
def test_batch_of_one_written_into_a_reshape_is_freed(
    build_graph, normalize, evaluate, target
) -> None:
    model = build_graph(
        "c = Conv(x, w) p = GlobalAveragePool(c) f = Reshape(p, to) y = Gemm<transB=1>(f, fw, fb)",
        {**CONV_WEIGHTS, "to": np.array(target)},
        image="float[1,3,6,6] x",
    )
    result = normalize(model)
    images = floats(5, 3, 6, 6)
    one_by_one = np.concatenate([evaluate(model, images[i : i + 1]) for i in range(5)])
    np.testing.assert_allclose(evaluate(result, images), one_by_one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "body",
    [
        "m = MatMul(f, kernel) y = Add(m, fb)",
        "m = MatMul(f, kernel) y = Add(fb, m)",
        "y = Gemm(f, kernel, fb)",
        "y = Gemm<alpha=0.5, beta=2.0, transB=1>(f, fw, fb)",
        "y = Gemm<transB=1>(f, fw)",
        "y = Gemm<transB=1>(f, fw, row)",
        "y = MatMul(f, kernel)",
        "m = MatMul(f, kernel) n = Mul(m, fb) y = Add(n, fb)",
    ],
)
def test_every_linear_layer_is_one(build_graph, normalize, body) -> None:
    model = build_graph(
        f"c = Conv(x, w) p = GlobalAveragePool(c) f = Flatten(p) {body}",
        {**CONV_WEIGHTS, "kernel": floats(8, 4), "row": floats(1, 4)},
    )
    result = normalize(model)
    assert ops(result)[-1] == "Gemm"
    assert {a.name: a.i for a in result.graph.node[-1].attribute} == {"transB": 1}
    shapes = {name: value.shape for name, value in weights(result).items()}
    data, weight, bias = result.graph.node[-1].input
    assert (shapes[weight], shapes[bias]) == ((4, 8), (4,))
    assert data == result.graph.node[-2].output[0]


@pytest.mark.parametrize(
    "body",
    [
        "a = Conv(x, w) i = Identity(a) c = Relu(i)",
        "a = Conv(x, w) d, mask = Dropout(a, ratio) c = Relu(d)",
        "a = Conv(x, w) d = Relu(a) c = Relu(d)",
        "a = Conv(x, w) c = Clip(a, zero)",
        "a = Conv(x, w) c = Clip(a, zero, huge)",
        "a = Conv(x, w) d = Cast<to=1>(a) c = Relu(d)",
        "a = Conv(x, w) d = Pad(a, nothing) c = Relu(d)",
        "a = Conv(x, w) d = MaxPool<kernel_shape=[1,1], strides=[1,1]>(a) c = Relu(d)",
        "a = Conv(x, w) d = Concat<axis=1>(a) c = Relu(d)",
        """a = Conv(x, w) t = Transpose<perm=[0,2,3,1]>(a) u = Transpose<perm=[0,3,1,2]>(t)
           c = Relu(u)""",
        "v = Identity(w) a = Conv(x, v) c = Relu(a)",
    ],
)
def test_what_changes_nothing_goes(build_graph, normalize, body) -> None:
    extra = {
        "ratio": np.float32(0.5),
        "zero": np.float32(0),
        "huge": np.float32(np.inf),
        "nothing": np.zeros(8, np.int64),
    }
    model = build_graph(f"{body} {HEAD}", {**CONV_WEIGHTS, **extra})
    assert ops(normalize(model)) == ["Conv", "Relu", "GlobalAveragePool", "Flatten", "Gemm"]


def test_relu_of_the_same_tensor_is_computed_once(build_graph, normalize) -> None:
    model = build_graph(
        f"a = Conv(x, w) r = Relu(a) s = Relu(a) c = Add(s, r) {HEAD}", CONV_WEIGHTS
    )
    assert ops(normalize(model))[:3] == ["Conv", "Relu", "Add"]


def test_clip_at_six_stays(build_graph, normalize) -> None:
    model = build_graph(
        f"a = Conv(x, w) c = Clip(a, zero, six) {HEAD}",
        {**CONV_WEIGHTS, "zero": np.float32(0), "six": np.float32(6)},
    )
    assert "Clip" in ops(normalize(model))


@pytest.mark.parametrize(
    ("auto_pad", "strides", "expected"),
    [
        ("SAME_UPPER", 1, [1, 1, 1, 1]),
        ("SAME_UPPER", 2, [0, 0, 1, 1]),
        ("SAME_LOWER", 2, [1, 1, 0, 0]),
        ("VALID", 2, [0, 0, 0, 0]),
    ],
)
def test_automatic_padding_is_written_out(
    build_graph, normalize, auto_pad, strides, expected
) -> None:
    model = build_graph(
        f'c = Conv<auto_pad="{auto_pad}", strides=[{strides},{strides}]>(x, w) {HEAD}', CONV_WEIGHTS
    )
    assert attribute(normalize(model), "Conv", "pads") == expected


def test_padding_in_front_of_a_conv_is_merged(build_graph, normalize) -> None:
    pads = np.array([0, 0, 1, 0, 0, 0, 2, 1])
    model = build_graph(
        f"q = Pad(x, pads) c = Conv<pads=[1,1,1,1]>(q, w) {HEAD}", {**CONV_WEIGHTS, "pads": pads}
    )
    result = normalize(model)
    assert "Pad" not in ops(result)
    assert attribute(result, "Conv", "pads") == [2, 1, 3, 2]


def test_padding_with_ones_is_not_merged(build_graph, normalize) -> None:
    extra = {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "one": np.float32(1)}
    model = build_graph(f"q = Pad(x, pads, one) c = Conv(q, w) {HEAD}", {**CONV_WEIGHTS, **extra})
    assert ops(normalize(model))[0] == "Pad"


def test_ceil_mode_becomes_padding_where_it_changes_something(build_graph, normalize) -> None:
    body = "q = MaxPool<kernel_shape=[2,2], strides=[{0},{0}], ceil_mode=1>(x) c = Conv(q, w) "
    weights_1x1 = {"w": floats(8, 3, 1, 1), **HEAD_WEIGHTS}
    exact = normalize(build_graph(body.format(2) + HEAD, weights_1x1))
    rounded = normalize(build_graph(body.format(3) + HEAD, weights_1x1))
    assert "ceil_mode" not in {a.name for a in exact.graph.node[0].attribute}
    assert "ceil_mode" not in {a.name for a in rounded.graph.node[0].attribute}
    assert attribute(exact, "MaxPool", "pads") == [0, 0, 0, 0]


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
