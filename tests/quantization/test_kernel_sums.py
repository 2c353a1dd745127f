"""Taps of a kernel make good for each other's rounding."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view

from edgeres.quantization.kernel_sums import balance_kernels
from edgeres.quantization.pairing import pairings
from edgeres.quantization.saturation import move_pairs, prove

ONES = np.ones((1, 1), np.float32)


def rounded(exact: np.ndarray, channels: int, kernel: tuple[int, int], *, safe: bool):
    """Integers before and after their kernels are balanced, and the packings they obey."""
    packings = pairings(exact.shape[1], kernel) if safe else ()
    before = np.clip(np.rint(exact), -127, 127)
    move_pairs(before, exact, ONES, packings)
    after = before.copy()
    balance_kernels(after, exact, ONES, packings, taps=int(np.prod(kernel)), limit=127)
    assert exact.shape[1] == channels * np.prod(kernel)
    return before, after, packings


@pytest.mark.parametrize("safe", [False, True])
def test_the_output_on_smooth_maps_errs_less(safe):
    """Maps that are smooth as behind a Relu; the mean error is left out, the bias takes it."""
    random = np.random.default_rng(0)
    exact = (random.standard_normal((32, 16 * 9)) * 45).clip(-127, 127).astype(np.float32)
    before, after, _ = rounded(exact, 16, (3, 3), safe=safe)
    maps = np.maximum(random.standard_normal((16, 40, 40)), 0)
    for axis in (1, 2, 1, 2):
        maps = (maps + np.roll(maps, 1, axis) + np.roll(maps, -1, axis)) / 3
    patches = sliding_window_view(maps, (3, 3), axis=(1, 2)).transpose(1, 2, 0, 3, 4)
    patches = patches.reshape(-1, 16 * 9)
    patches = patches - patches.mean(axis=0)
    error = [float(np.square(patches @ (whole - exact).T).sum()) for whole in (before, after)]
    assert error[1] < (0.5 if safe else 0.8) * error[0]


@given(
    st.integers(1, 5),
    st.integers(1, 9),
    st.sampled_from([(3, 3), (1, 2), (1, 1), (7, 7)]),
    st.integers(0, 99),
)
def test_the_rule_and_the_range_hold_afterwards(rows, channels, kernel, seed):
    random = np.random.default_rng(seed)
    columns = channels * kernel[0] * kernel[1]
    exact = (random.standard_t(3, (rows, columns)) * 60).clip(-127, 127).astype(np.float32)
    _, after, packings = rounded(exact, channels, kernel, safe=True)
    assert prove(after.astype(np.int8), packings).safe
    assert np.abs(after).max() <= 127
    np.testing.assert_array_equal(after, np.rint(after))


def test_one_tap_has_nothing_to_balance():
    exact = np.random.default_rng(0).uniform(-127, 127, (4, 8)).astype(np.float32)
    before, after, _ = rounded(exact, 8, (1, 1), safe=False)
    np.testing.assert_array_equal(after, before)
