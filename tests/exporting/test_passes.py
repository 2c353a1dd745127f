"""Each rule of the normal form on a graph that needs it; the fixture checks the values."""

from __future__ import annotations

import numpy as np
import pytest

from .small_graphs import CONV_WEIGHTS, HEAD, attribute, floats, ops, weights


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
    ("body", "goes"),
    [
        ("c = Mul(r, ones)", True),
        ("c = Mul(ones, r)", True),
        ("c = Div(r, ones)", True),
        ("c = Div(ones, r)", False),
        ("c = Add(zeros, r)", True),
        ("c = Sub(r, zeros)", True),
        ("c = Sub(zeros, r)", False),
        ("c = Mul(r, mixed)", False),
        ("q = GlobalAveragePool(r) c = Mul(q, wide)", False),
    ],
)
def test_ones_and_zeros_that_change_nothing_go(build_graph, normalize, body, goes) -> None:
    model = build_graph(
        f"b = Conv(x, w) s = Sigmoid(b) r = Mul(b, s) {body} {HEAD}",
        {
            **CONV_WEIGHTS,
            "ones": np.ones((8, 1, 1), np.float32),
            "zeros": np.zeros((1, 1, 1, 1), np.float32),
            "mixed": np.array([1.0, 2.0] * 4, np.float32).reshape(8, 1, 1),
            "wide": np.ones((1, 8, 2, 2), np.float32),
        },
    )
    left = ["Conv", "Sigmoid", "Mul", "GlobalAveragePool", "Flatten", "Gemm"]
    assert (ops(normalize(model)) == left) is goes


@pytest.mark.parametrize(
    ("body", "left"),
    [
        ("r = Relu(b) m = Mul(r, k) d = Conv(m, w2) e = Conv(m, w2) c = Add(d, e)", 0),
        ("r = Relu(b) m = Mul(k, r) c = Conv(m, w2)", 0),
        (
            "m = Mul(b, k) r = Relu(m) n = Mul(r, k) d = Conv(n, w2) "
            "q = AveragePool<kernel_shape=[1,1],strides=[1,1]>(n) e = Conv(q, w2) c = Add(d, e)",
            0,
        ),
        ("r = Relu(b) m = Mul(r, k) q = AveragePool<kernel_shape=[2,2]>(m) c = Conv(q, w2)", 0),
        ("r = Relu(b) m = Div(r, k) c = Conv<pads=[1,1,1,1]>(m, w3)", 0),
        ("r = Relu(b) m = Mul(r, k) d = Conv(m, w2) c = Add(d, m)", 1),
        ("r = Sigmoid(b) m = Div(k, r) c = Conv(m, w2)", 1),
        ("r = Relu(b) m = Mul(r, none) c = Conv(m, w2)", 1),
    ],
)
def test_a_factor_goes_into_the_layers_that_read_it(build_graph, normalize, body, left) -> None:
    model = build_graph(
        f"b = Conv(x, w) {body} {HEAD}",
        {
            **CONV_WEIGHTS,
            "k": np.float32(0.5),
            "none": np.float32(0),
            "w2": floats(8, 8, 1, 1),
            "w3": floats(8, 8, 3, 3),
        },
    )
    found = ops(normalize(model))
    assert found.count("Mul") + found.count("Div") == left


def test_a_factor_in_front_of_the_classifier_goes(build_graph, normalize) -> None:
    model = build_graph(
        "b = Conv(x, w) p = GlobalAveragePool(b) q = Relu(p) m = Mul(q, k) f = Flatten(m) "
        "y = Gemm<transB=1>(f, fw, fb)",
        {**CONV_WEIGHTS, "k": np.float32(0.8)},
    )
    assert "Mul" not in ops(normalize(model))
