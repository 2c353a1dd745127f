"""A 1x1 Conv of one pixel that is then flattened: a Gemm, and only where it is one."""

from __future__ import annotations

import numpy as np
import pytest

RANDOM = np.random.default_rng(5)
WEIGHTS = {
    "w": RANDOM.standard_normal((8, 3, 3, 3)).astype(np.float32),
    "k": RANDOM.standard_normal((4, 8, 1, 1)).astype(np.float32),
    "kb": RANDOM.standard_normal(4).astype(np.float32),
    "grouped": RANDOM.standard_normal((4, 4, 1, 1)).astype(np.float32),
    "to": np.array([-1, 4], np.int64),
}
POOLED = "c = Conv(x, w) r = Relu(c) p = GlobalAveragePool(r) "


@pytest.mark.parametrize(
    "head",
    [
        "h = Conv(p, k, kb) y = Flatten(h)",
        "h = Conv(p, k) y = Reshape(h, to)",
        "h = Conv(p, k, kb) f = Flatten(h) y = Softmax(f)",
    ],
)
def test_a_head_is_dense(build_graph, bring, head: str) -> None:
    _, model = bring(build_graph(POOLED + head, WEIGHTS))
    found = [node.op_type for node in model.graph.node]
    assert found[:5] == ["Conv", "Relu", "GlobalAveragePool", "Flatten", "Gemm"]
    assert found[5:] == (["Softmax"] if "Softmax" in head else [])


@pytest.mark.parametrize(
    "body",
    [
        "c = Conv(x, w) r = Relu(c) p = GlobalAveragePool(r) h = Conv<group=2>(p, grouped, kb)"
        " y = Flatten(h)",
        "c = Conv(x, w) r = Relu(c) p = GlobalAveragePool(r) h = Conv(p, k, kb) s = Relu(h)"
        " a = Add(h, s) y = Flatten(a)",
        "c = Conv(x, w) h = Conv(c, k, kb) p = GlobalAveragePool(h) y = Flatten(p)",
    ],
)
def test_other_convolutions_stay(build_graph, bring, body: str) -> None:
    _, model = bring(build_graph(body, WEIGHTS))
    found = [node.op_type for node in model.graph.node]
    assert "Gemm" not in found
    assert found.count("Conv") == 2
