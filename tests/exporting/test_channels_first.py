"""Channel-last networks, as TensorFlow's exporters write them, in one layout."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

RANDOM = np.random.default_rng(13)
OUT, IN = "<perm=[0,2,3,1]>", "<perm=[0,3,1,2]>"
WEIGHTS = {
    "w": RANDOM.standard_normal((8, 3, 3, 3)).astype(np.float32),
    "v": RANDOM.standard_normal((8, 8, 3, 3)).astype(np.float32),
    "bias": RANDOM.standard_normal(8).astype(np.float32),
    "gamma": RANDOM.uniform(0.5, 2, (1, 1, 1, 8)).astype(np.float32),
    "mean": RANDOM.standard_normal(3).astype(np.float32),
    "pads": np.array([0, 1, 1, 0, 0, 1, 1, 0]),
    "behind": np.array([0, 0, 0, 0, 0, 1, 1, 0]),
    "dense": RANDOM.standard_normal((8, 8)).astype(np.float32),
    "squeeze": RANDOM.standard_normal((8, 2)).astype(np.float32),
    "excite": RANDOM.standard_normal((2, 8)).astype(np.float32),
    "fw": RANDOM.standard_normal((8, 4)).astype(np.float32),
    "flat": RANDOM.standard_normal((8 * 6 * 7, 4)).astype(np.float32),
    "to": np.array([-1, 8 * 6 * 7]),
    "pixel": np.array([-1, 1, 1, 8]),
    "hw": np.array([1, 2]),
    "zero": np.array([0]),
    "four": np.array([4]),
    "last": np.array([3]),
}
STEM = f"i = Transpose{IN}(x) c = Conv<pads=[1,1,1,1]>(i, w) t = Transpose{OUT}(c) "
HEAD = "h = ReduceMean<keepdims=0>(z, hw) y = MatMul(h, fw)"
#: Body between the channel-last ``t`` and ``z``, and what else than the plain operators is left.
KINDS = {
    "bias": ("b = Add(t, bias) z = Relu(b)", set()),
    "batch norm": ("g = Mul(t, gamma) b = Sub(g, bias) z = Relu(b)", set()),
    "residual": (
        f"r = Relu(t) p = Pad(r, pads) q = Transpose{IN}(p) d = Conv(q, v) u = Transpose{OUT}(d) "
        "e = Add(u, bias) s = Add(e, r) z = Relu(s)",
        set(),
    ),
    "padded pool": (
        f"r = Relu(t) p = Pad(r, behind) q = Transpose{IN}(p) "
        f"d = MaxPool<kernel_shape=[3,3], strides=[2,2]>(q) z = Transpose{OUT}(d)",
        {"MaxPool"},
    ),
    "1x1 as MatMul": ("r = Relu(t) m = MatMul(r, dense) z = Relu(m)", set()),
    "squeeze and excite": (
        "r = Relu(t) m = ReduceMean<keepdims=0>(r, hw) a = MatMul(m, squeeze) b = Relu(a) "
        "e = MatMul(b, excite) s = Sigmoid(e) k = Reshape(s, pixel) z = Mul(r, k)",
        {"Sigmoid", "Mul", "Reshape"},
    ),
    "concat and slice": (
        "r = Relu(t) s = Slice(r, zero, four, last) n = Neg(s) l = Concat<axis=3>(s, n) "
        "z = Relu(l)",
        {"Slice", "Neg", "Concat"},
    ),
    "swish": ("s = Sigmoid(t) z = Mul(t, s)", {"Sigmoid", "Mul"}),
}  # fmt: skip
PLAIN = {"Conv", "Relu", "Add", "GlobalAveragePool", "Flatten", "Gemm"}


def ops(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize("kind", KINDS)
def test_one_transpose_is_left(build_graph, bring, kind: str) -> None:
    body, more = KINDS[kind]
    told, model = bring(build_graph(STEM + body + " " + HEAD, WEIGHTS, image="float[N,6,7,3] x"))
    assert told["layout"] == "nhwc"
    found = ops(model)
    assert found[:2] == ["Transpose", "Conv"]
    assert found.count("Transpose") == 1
    assert set(found) <= PLAIN | more | {"Transpose"}


def test_flattened_image_turns_the_weights(build_graph, bring) -> None:
    body = STEM + "r = Relu(t) f = Reshape(r, to) y = MatMul(f, flat)"
    _, model = bring(build_graph(body, WEIGHTS, image="float[N,6,7,3] x"))
    assert ops(model) == ["Transpose", "Conv", "Relu", "Flatten", "Gemm"]


def test_padding_and_mean_of_the_image_are_turned_too(build_graph, bring) -> None:
    body = f"p = Pad(x, pads) i = Transpose{IN}(p) c = Conv(i, w) t = Transpose{OUT}(c) z = Relu(t)"
    _, model = bring(build_graph(f"{body} {HEAD}", WEIGHTS, image="float[N,6,7,3] x"))
    assert ops(model) == ["Transpose", "Conv", "Relu", "GlobalAveragePool", "Flatten", "Gemm"]
    conv = model.graph.node[1]
    assert next(list(a.ints) for a in conv.attribute if a.name == "pads") == [1, 1, 1, 1]
    body = "s = Sub(x, mean) " + STEM.replace("(x)", "(s)") + "z = Relu(t) " + HEAD
    _, model = bring(build_graph(body, WEIGHTS, image="float[N,6,7,3] x"))
    assert ops(model)[:3] == ["Transpose", "Sub", "Conv"]


def test_layer_norm_over_channels_keeps_its_transposes(build_graph, bring) -> None:
    body = (
        f"c = Conv<pads=[1,1,1,1]>(x, w) t = Transpose{OUT}(c) n = LayerNormalization(t, bias) "
        f"u = Transpose{IN}(n) d = Conv(u, v) r = Relu(d) p = GlobalAveragePool(r) f = Flatten(p) "
        "y = MatMul(f, fw)"
    )
    _, model = bring(build_graph(body, WEIGHTS))
    assert ops(model)[:5] == ["Conv", "Transpose", "LayerNormalization", "Transpose", "Conv"]
