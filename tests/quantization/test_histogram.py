from __future__ import annotations

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgeres.quantization.histogram import BINS, SMALLEST_EXPONENT, GrowingHistogram

arrays = hnp.arrays(
    np.float32, st.integers(1, 40), elements=st.floats(-1e6, 1e6, width=32, allow_subnormal=False)
)


def fill(parts) -> GrowingHistogram:
    histogram = GrowingHistogram()
    for part in parts:
        histogram.add(part, float(np.abs(part).max()))
    return histogram


@given(st.lists(arrays, min_size=1, max_size=5), st.randoms())
def test_same_histogram_in_any_order_and_any_batches(parts, random):
    forward = fill(parts)
    shuffled = list(parts)
    random.shuffle(shuffled)
    for other in (fill(shuffled), fill([np.concatenate(parts)])):
        assert other.exponent == forward.exponent
        assert other.zeros == forward.zeros
        np.testing.assert_array_equal(other.counts, forward.counts)


@given(arrays)
@example(np.float32([1.1754944e-38]))
def test_every_value_lies_in_its_bin(values):
    histogram = fill([values])
    assert histogram.total == values.size
    assert histogram.zeros == np.count_nonzero(values == 0)
    alive = values[values != 0].astype(np.float64)
    if alive.size:
        index = np.floor(alive / histogram.width).astype(int) + BINS
        expected = np.bincount(index, minlength=2 * BINS)
        np.testing.assert_array_equal(histogram.counts, expected)
        upper_half = np.abs(alive).max() >= BINS / 2 * histogram.width
        assert upper_half or histogram.exponent == SMALLEST_EXPONENT


def test_only_zeros():
    histogram = fill([np.zeros(7, np.float32)])
    assert histogram.width == 0.0
    assert histogram.zeros == histogram.total == 7
