"""Pads in front of a MaxPool: merged where nothing of them can win, kept where it could."""

from __future__ import annotations

import numpy as np
import pytest

RANDOM = np.random.default_rng(17)
WEIGHTS = {
    "w": RANDOM.standard_normal((8, 3, 3, 3)).astype(np.float32),
    "fw": RANDOM.standard_normal((4, 8)).astype(np.float32),
    "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
    "wide": np.array([0, 0, 3, 0, 0, 0, 0, 0]),
    "channels": np.array([0, 1, 0, 0, 0, 0, 0, 0]),
    "lowest": np.array(np.finfo(np.float32).min, np.float32),
    "one": np.array(1, np.float32),
}
POOL = "p = MaxPool<kernel_shape=[3,3], strides=[2,2]>(d) "
HEAD = "g = GlobalAveragePool(p) f = Flatten(g) y = Gemm<transB=1>(f, fw)"


@pytest.mark.parametrize(
    ("pad", "merged"),
    [
        ("r = Relu(c) d = Pad(r, pads)", True),
        ("r = Clip(c, zero, one) d = Pad(r, pads)", True),
        ("d = Pad(c, pads, lowest)", True),
        ('d = Pad<mode="edge">(c, pads)', True),
        ("d = Pad(c, pads)", False),
        ("r = Relu(c) d = Pad(r, pads, one)", False),
        ('r = Relu(c) d = Pad<mode="reflect">(r, pads)', False),
        ("r = Relu(c) d = Pad(r, wide)", False),
    ],
)
def test_padding_is_merged_where_it_cannot_win(build_graph, bring, pad: str, merged: bool) -> None:
    weights = WEIGHTS | {"zero": np.array(0, np.float32)}
    _, model = bring(build_graph(f"c = Conv<pads=[1,1,1,1]>(x, w) {pad} {POOL} {HEAD}", weights))
    found = [node.op_type for node in model.graph.node]
    assert ("Pad" in found) != merged
    assert "MaxPool" in found
