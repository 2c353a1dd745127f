"""Padding and windows of the normal form: written out, merged where that is exact."""

from __future__ import annotations

import numpy as np
import pytest

from .small_graphs import CONV_WEIGHTS, HEAD, HEAD_WEIGHTS, attribute, floats, ops


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
