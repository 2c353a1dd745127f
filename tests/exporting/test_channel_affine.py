"""Normalization that follows no layer: a depthwise convolution, and only where it is one."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

RANDOM = np.random.default_rng(31)
WEIGHTS = {
    "w": RANDOM.standard_normal((8, 3, 3, 3)).astype(np.float32),
    "v": RANDOM.standard_normal((8, 8, 1, 1)).astype(np.float32),
    "fw": RANDOM.standard_normal((4, 8)).astype(np.float32),
    "gamma": RANDOM.standard_normal(8).astype(np.float32),
    "beta": RANDOM.standard_normal(8).astype(np.float32),
    "mean": RANDOM.standard_normal(8).astype(np.float32),
    "var": RANDOM.uniform(0.5, 2, 8).astype(np.float32),
    "factor": RANDOM.standard_normal((1, 8, 1, 1)).astype(np.float32),
    "shift": RANDOM.standard_normal((8, 1, 1)).astype(np.float32),
    "map": RANDOM.standard_normal((1, 8, 4, 4)).astype(np.float32),
}
SUM = "c = Conv(x, w) d = Conv(c, v) a = Add(c, d) "
HEAD = " r = Relu(z) p = GlobalAveragePool(r) f = Flatten(p) y = Gemm<transB=1>(f, fw)"


@pytest.mark.parametrize(
    ("norm", "convolutions"),
    [
        ("z = BatchNormalization(a, gamma, beta, mean, var)", 3),
        ("m = Mul(a, factor) z = Add(m, shift)", 3),
        ("m = Mul(factor, a) z = Sub(m, shift)", 3),
        ("m = Mul(a, factor) z = Sub(shift, m)", 2),
        ("m = Mul(a, factor) z = Add(m, map)", 2),
        ("n = InstanceNormalization(a, gamma, beta) m = Mul(n, factor) z = Add(m, shift)", 2),
        ("m = Mul(a, factor) s = Sigmoid(m) t = Add(m, shift) z = Add(s, t)", 2),
    ],
)
def test_norm_of_a_sum(build_graph, bring, norm: str, convolutions: int) -> None:
    _, model = bring(build_graph(SUM + norm + HEAD, WEIGHTS))
    found = Counter(node.op_type for node in model.graph.node)
    assert found["Conv"] == convolutions
    assert not found["BatchNormalization"]
    groups = [a.i for n in model.graph.node for a in n.attribute if a.name == "group"]
    assert groups.count(8) == convolutions - 2
