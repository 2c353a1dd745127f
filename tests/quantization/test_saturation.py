from __future__ import annotations

import itertools

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeres.errors import StageError, UsageError
from edgeres.graph.layers import Layer
from edgeres.quantization.pairing import pairings
from edgeres.quantization.saturation import PAIR_LIMIT, move_pairs, prove, require_safe
from edgeres.quantization.scales import MIN_SCALE
from edgeres.quantization.weights import quantize_weight


def layer(weight: np.ndarray, *, groups: int = 1, bias: np.ndarray | None = None) -> Layer:
    return Layer(
        node=ir.node("Conv" if weight.ndim > 2 else "Gemm", [], name="layer"),
        weight=np.ascontiguousarray(weight.reshape(len(weight), -1), np.float32),
        bias=bias,
        kernel=tuple(weight.shape[2:]),
        groups=groups,
        channel_axis=0,
        stored_shape=weight.shape,
    )


shapes = st.tuples(
    st.integers(1, 6), st.integers(1, 9), st.sampled_from([(), (1, 1), (3, 3), (1, 2), (7, 7)])
)


def brute_force_pairs(channels: int, kernel: tuple[int, ...]) -> set[frozenset[int]]:
    """All packings written out with loops: (channel, position) -> column."""
    places = list(itertools.product(*(range(size) for size in kernel)))
    column = {key: i for i, key in enumerate(itertools.product(range(channels), places))}
    by_channel = {
        frozenset({column[c, p], column[c + 1, p]})
        for c in range(0, channels - 1, 2)
        for p in places
    }
    flat = [column[c, p] for p in places for c in range(channels)]
    by_neighbour = {frozenset(flat[i : i + 2]) for i in range(0, len(flat) - 1, 2)}
    by_row = {
        frozenset({column[0, place], column[0, (*place[:-1], place[-1] + 1)]})
        for place in places
        if channels == 1 and len(kernel) > 1 and place[-1] % 2 == 0 and place[-1] + 1 < kernel[-1]
    }
    return by_channel | by_neighbour | by_row


@given(st.integers(1, 9), st.sampled_from([(), (1, 1), (3, 3), (1, 2), (5,)]))
def test_pairs_are_those_of_all_packings(channels, kernel):
    columns = channels * int(np.prod(kernel))
    packings = pairings(columns, kernel)
    found = {frozenset(map(int, pair)) for pairs in packings for pair in pairs}
    assert found == brute_force_pairs(channels, kernel)
    for pairs in packings:
        assert len(np.unique(pairs)) == pairs.size


def test_even_channels_need_one_packing_only():
    assert len(pairings(4 * 9, (3, 3))) == 1
    assert len(pairings(3 * 9, (3, 3))) == 2
    assert pairings(1, ()) == ()


def test_a_long_dense_layer_is_safe_within_each_half_too():
    """OpenVINO without VNNI pairs anew from column 225 of 450."""
    whole, halves = pairings(450, ())
    assert whole.tolist() == [[i, i + 1] for i in range(0, 450, 2)]
    first = [[i, i + 1] for i in range(0, 224, 2)]
    assert halves.tolist() == first + [[i, i + 1] for i in range(225, 449, 2)]
    assert len(pairings(256, ())) == len(pairings(300, ())) == len(pairings(450, (1, 1))) == 1
    assert [448, 447] not in pairings(449, ())[-1].tolist()
    assert [447, 448] in pairings(449, ())[-1].tolist()


def test_one_channel_is_safe_within_kernel_rows_too():
    by_row = pairings(9, (3, 3))[-1]
    assert by_row.tolist() == [[0, 1], [3, 4], [6, 7]]
    assert len(pairings(9, (3, 3))) == 2  # a single channel has no neighbour channel


@given(shapes, st.integers(0, 2**31), st.sampled_from([0.0, 1.0, 50.0]))
@settings(deadline=None)
def test_no_activation_can_leave_int16(shape, seed, tail):
    rows, channels, kernel = shape
    random = np.random.default_rng(seed)
    w = random.standard_normal((rows, channels, *kernel)) * (1 + tail * random.random(channels)[
        (None, slice(None), *[None] * len(kernel))
    ])  # fmt: skip
    energy = random.random(channels).astype(np.float32)
    quantized = quantize_weight(layer(w), energy=energy, saturating=True)
    values = quantized.values.reshape(rows, -1).astype(np.int32)
    for pair in brute_force_pairs(channels, kernel):
        a, b = values[:, min(pair)], values[:, max(pair)]
        # The worst image: 255 wherever the weight has the sign, 0 elsewhere.
        assert (255 * (np.maximum(a, 0) + np.maximum(b, 0))).max() <= 32767
        assert (255 * (np.minimum(a, 0) + np.minimum(b, 0))).min() >= -32768
    assert quantized.proof.safe
    assert np.abs(values).max() <= 127


def test_proof_finds_the_worst_pair():
    values = np.array([[127, 1, 0, 0], [0, 0, -100, -29]], np.int8)
    proof = prove(values, pairings(4, ()))
    assert (proof.highest, proof.lowest, proof.pairs) == (128, -129, 4)
    assert not proof.safe
    with pytest.raises(StageError, match=r"fc\.1.*-129"):
        require_safe("fc.1", proof)


@given(st.integers(0, 2**31))
@settings(deadline=None)
def test_moves_are_the_least_output_error_of_all_safe_choices(seed):
    random = np.random.default_rng(seed)
    exact = random.uniform(-127, 127, (1, 2)).astype(np.float32)
    importance = random.uniform(0.01, 1, (1, 2)).astype(np.float32)
    whole = np.rint(exact)
    move_pairs(whole, exact, importance, pairings(2, ()))
    x, y = np.meshgrid(np.arange(-127, 128), np.arange(-127, 128), indexing="ij")
    safe = (np.maximum(x, 0) + np.maximum(y, 0) <= PAIR_LIMIT) & (
        np.minimum(x, 0) + np.minimum(y, 0) >= -PAIR_LIMIT
    )
    cost = importance[0, 0] * (x - exact[0, 0]) ** 2 + importance[0, 1] * (y - exact[0, 1]) ** 2
    best = np.where(safe, cost, np.inf).min()
    got = (importance * (whole - exact) ** 2).sum()
    assert got <= best * (1 + 1e-4) + 1e-4


def test_pairs_that_obey_the_rule_are_left_alone():
    exact = np.array([[127.0, -127.0, 64.0, 64.0, 127.0, 1.0]], np.float32)
    whole = exact.copy()
    assert move_pairs(whole, exact, np.ones((1, 1), np.float32), pairings(6, ())) == 0
    np.testing.assert_array_equal(whole, exact)


def test_safe_weights_cost_less_than_seven_bits_and_little_more_than_eight():
    random = np.random.default_rng(0)
    w = layer(random.standard_normal((64, 64, 3, 3)).astype(np.float32))
    full = quantize_weight(w)
    safe = quantize_weight(w, saturating=True)
    scale = np.abs(w.weight).max(axis=1, keepdims=True) / 63
    seven = np.rint(w.weight / scale) * scale
    noise = [np.square(x - w.weight).sum() for x in (full.dequantized, safe.dequantized, seven)]
    assert not full.proof.safe
    assert noise[1] < 2.0 * noise[0]
    assert noise[1] < 0.5 * noise[2]


def test_energy_decides_which_channel_gives_way():
    w = np.tile(np.float32([[1.0, 1.0]]), (1, 1))
    loud_first = quantize_weight(layer(w), energy=np.float32([100, 1]), saturating=True)
    error = np.abs(loud_first.dequantized - w)[0]
    assert error[0] < error[1] or error.max() < 0.01


def test_scale_search_beats_the_full_range_scale():
    random = np.random.default_rng(1)
    w = random.laplace(size=(16, 200)).astype(np.float32)
    full = np.abs(w).max(axis=1, keepdims=True) / 127
    plain = np.square(np.rint(w / full) * full - w).sum()
    found = quantize_weight(layer(w))
    assert np.square(found.dequantized - w).sum() < plain
    assert found.sqnr_db > 30


def test_dead_channels_are_named_and_get_a_valid_scale():
    w = np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32)
    w[1] = 0.0
    w[3] = 1e-12
    found = quantize_weight(layer(w))
    assert found.dead_channels == (1, 3)
    assert (found.scales >= MIN_SCALE).all()
    assert not found.values[[1, 3]].any()
    everything = quantize_weight(layer(np.zeros((2, 4), np.float32)))
    assert everything.dead_channels == (0, 1)
    assert np.isfinite(everything.scales).all()


def test_least_scales_and_one_scale_per_tensor_are_obeyed():
    w = np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32)
    least = np.array([0.0, 0.5, 0.0, 0.0])
    found = quantize_weight(layer(w), least_scales=least)
    assert 0.5 <= found.scales[1] < 0.6
    assert found.scales[0] < 0.1
    single = quantize_weight(layer(w), per_channel=False, saturating=True)
    assert single.scales.shape == (1,)
    assert single.proof.safe


def test_groups_take_the_energy_of_their_own_channels():
    w = np.random.default_rng(0).standard_normal((4, 2, 1, 1)).astype(np.float32)
    quantize_weight(layer(w, groups=2), energy=np.ones(4, np.float32), saturating=True)
    with pytest.raises(UsageError, match="reads 4 channels"):
        quantize_weight(layer(w, groups=2), energy=np.ones(2, np.float32))
