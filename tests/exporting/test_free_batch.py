"""Networks that compute shapes from the batch: it stays free, nothing is folded for one image."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from edgeres.errors import ModelError

RANDOM = np.random.default_rng(7)
START = "c = Conv<pads=[1,1,1,1]>(x, w) r = Relu(c) s = Shape(r) n = Gather(s, zero) "
END = "a = Relu(z) p = GlobalAveragePool(a) f = Flatten(p) y = Gemm<transB=1>(f, fw)"
WEIGHTS = {
    "w": RANDOM.standard_normal((8, 3, 3, 3)).astype(np.float32),
    "fw": RANDOM.standard_normal((4, 8)).astype(np.float32),
    "zero": np.array([0]),
    "two": np.array([2]),
    "rest": np.array([8, 6, 6]),
    "halves": np.array([4, 6, 6]),
    "ones": np.array([1, 1]),
    "pairs": np.array([2, 4, 6, 6]),
    "groups": np.array([4, 36]),
    "block": np.arange(36, dtype=np.float32).reshape(1, 1, 6, 6),
    "one": np.array([1]),
    "four": np.array([4]),
    "size": np.array([3, 3]),
    "whole": np.array([8, 12, 12]),
    "none": np.zeros(0, np.float32),
}
KINDS = {
    "view": "t = Concat<axis=0>(n, rest) v = Reshape(r, t) z = Relu(v)",
    "channel shuffle": "t = Concat<axis=0>(n, pairs) v = Reshape(r, t) "
    "o = Transpose<perm=[0,2,1,3,4]>(v) b = Concat<axis=0>(n, rest) z = Reshape(o, b)",
    "groups in the batch": "m = Mul(n, two) t = Concat<axis=0>(m, groups) v = Reshape(r, t) "
    "q = Softmax<axis=2>(v) b = Concat<axis=0>(n, rest) z = Reshape(q, b)",
    "groups in the batch beside an open size": "m = Mul(n, two) t = Concat<axis=0>(m, four, open) "
    "v = Reshape(r, t) q = Softmax<axis=2>(v) b = Concat<axis=0>(n, rest) z = Reshape(q, b)",
    "heads behind a sequence": "t = Concat<axis=0>(n, flat) v = Reshape(r, t) "
    "q = Transpose<perm=[2,0,1]>(v) m = Mul(n, two) h = Concat<axis=0>(pixels, m, four) "
    "k = Reshape(q, h) i = Softmax<axis=2>(k) g = Concat<axis=0>(pixels, n, eight) "
    "o = Reshape(i, g) u = Transpose<perm=[1,2,0]>(o) b = Concat<axis=0>(n, rest) "
    "z = Reshape(u, b)",
    "expand": "g = GlobalAveragePool(r) e = Expand(g, s) z = Mul(r, e)",
    "zeros joined": "t = Concat<axis=0>(n, halves) k = ConstantOfShape(t) "
    "h = Slice(r, zero, four, one) z = Concat<axis=1>(h, k)",
    "ones joined in front": "t = Concat<axis=0>(n, halves) "
    "k = ConstantOfShape<value=float[1] {2.0}>(t) h = Slice(r, zero, four, one) "
    "z = Concat<axis=1>(k, h)",
    "block repeated": "t = Concat<axis=0>(n, one, size2) e = Expand(block, t) z = Add(r, e)",
    "resize": "l = AveragePool<kernel_shape=[2,2]>(r) t = Concat<axis=0>(n, whole) "
    'z = Resize<mode="linear">(l, none, none, t)',
    "nothing that can be written otherwise": "t = Concat<axis=0>(n, one, size2) "
    "e = Expand(block, t) h = Slice(r, zero, seven, one) z = Concat<axis=1>(h, e)",
}
WEIGHTS |= {"size2": np.array([6, 6]), "seven": np.array([7]), "open": np.array([-1])}
WEIGHTS |= {"flat": np.array([8, 36]), "pixels": np.array([36]), "eight": np.array([8])}
#: What can be freed where the batch is written into all shapes; not behind a sequence.
WRITTEN = [kind for kind in KINDS if not kind.startswith(("nothing", "heads behind"))]


@pytest.mark.parametrize("kind", KINDS)
def test_the_batch_stays_free(build_graph, bring, kind: str) -> None:
    told, model = bring(build_graph(f"{START} {KINDS[kind]} {END}", WEIGHTS))
    assert told["dynamic_batch"], told["notes"]
    assert told["parity"]["batch_sizes"] == [1, 2, 7]
    found = Counter(n.op_type for n in model.graph.node)
    assert bool(found["Shape"]) == kind.startswith("nothing")


@pytest.mark.parametrize("kind", WRITTEN)
def test_a_batch_of_one_written_into_all_shapes_is_freed(build_graph, bring, kind: str) -> None:
    body = f"{START} {KINDS[kind]} {END}".replace("n = Gather(s, zero)", "n = Identity(one)")
    told, _ = bring(build_graph(body, WEIGHTS, image="float[1,3,6,6] x", scores="float[1,4] y"))
    assert told["dynamic_batch"], told["notes"]


@pytest.mark.parametrize("kind", WRITTEN)
def test_another_batch_written_into_all_shapes_is_freed(build_graph, bring, kind: str) -> None:
    body = f"{START} {KINDS[kind]} {END}".replace("n = Gather(s, zero)", "n = Identity(many)")
    weights = WEIGHTS | {"many": np.array([4])}
    told, _ = bring(build_graph(body, weights, image="float[4,3,6,6] x", scores="float[4,4] y"))
    assert told["dynamic_batch"], told["notes"]


def test_images_that_are_mixed_are_not_taken_apart(build_graph, bring) -> None:
    body = f"{START} m = ReduceMax<keepdims=1>(r, zero) z = Sub(m, r) {END}"
    told, _ = bring(build_graph(body, WEIGHTS, image="float[1,3,6,6] x", scores="float[1,4] y"))
    assert not told["dynamic_batch"]


def test_images_that_a_file_mixes_are_told_as_the_reason(build_graph, bring) -> None:
    """The most of four images less each: no network for one image."""
    model = build_graph(
        "c = Conv<pads=[1,1,1,1]>(x, w) m = ReduceMax<keepdims=1>(c, zero) z = Sub(m, c) " + END,
        image="float[4,3,6,6] x",
        scores="float[4,4] y",
        weights=WEIGHTS,
    )
    with pytest.raises(ModelError, match="written for batches of 4") as caught:
        bring(model)
    assert "free batch" in caught.value.hint
