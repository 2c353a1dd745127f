from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeres.errors import UsageError
from edgeres.quantization.scales import (
    BIAS_LIMIT,
    EMPTY_RANGE,
    MIN_SCALE,
    activation_params,
    dequantize_array,
    least_bias_scale,
    quantize_array,
    quantize_bias,
)

ends = st.floats(min_value=-1e4, max_value=1e4, width=32)
kinds = st.sampled_from([("uint8", False), ("int8", False), ("int8", True)])


@given(ends, ends, kinds, st.floats(min_value=0, max_value=1))
def test_error_in_range_is_at_most_half_a_step(one, other, kind, share):
    low, high = min(one, other), max(one, other)
    params = activation_params(low, high, kind[0], symmetric=kind[1])
    x = np.float32([low + (high - low) * share, low, high])
    back = dequantize_array(quantize_array(x, params), params)
    slack = 1e-5 * max(abs(low), abs(high)) + 1e-12
    assert np.abs(back.astype(np.float64) - x).max() <= params.scale / 2 + slack


@given(ends, ends, kinds)
def test_zero_is_exact(one, other, kind):
    params = activation_params(min(one, other), max(one, other), kind[0], symmetric=kind[1])
    assert quantize_array(np.float32([0.0]), params)[0] == params.zero_point
    assert dequantize_array(quantize_array(np.float32([0.0]), params), params)[0] == 0.0
    assert params.low <= 0.0 <= params.high
    assert params.scale >= MIN_SCALE
    assert float(np.float32(params.scale)) == params.scale


def test_symmetric_int8_has_zero_point_zero_and_covers_both_sides():
    params = activation_params(-1.0, 2.54, "int8", symmetric=True)
    assert params.zero_point == 0
    assert params.scale == pytest.approx(0.02)


def test_unsigned_range_behind_a_relu_has_zero_point_zero():
    assert activation_params(0.0, 6.0, "uint8", symmetric=False).zero_point == 0


def test_values_outside_the_range_are_clipped_not_wrapped():
    params = activation_params(-1.0, 1.0, "uint8", symmetric=False)
    assert quantize_array(np.float32([-1e9, 1e9]), params).tolist() == [0, 255]


def test_always_zero_tensor_gets_a_valid_scale():
    params = activation_params(0.0, 0.0, "uint8", symmetric=False)
    assert params.scale == np.float32(EMPTY_RANGE / 255)
    assert params.zero_point == 0


def test_no_scale_is_below_what_the_engine_holds():
    low, high = 0.0, 255 * 1e-9
    kept = activation_params(low, high, "uint8", symmetric=False, least=2.0**-62)
    assert kept.scale == np.float32(1e-9)
    assert (
        activation_params(low, high, "uint8", symmetric=False, least=MIN_SCALE).scale == MIN_SCALE
    )


@pytest.mark.parametrize("bad", [(1.0, -1.0), (0.0, float("nan")), (float("-inf"), 0.0)])
def test_ranges_that_are_none_are_refused(bad):
    with pytest.raises(UsageError, match="finite"):
        activation_params(*bad, "uint8", symmetric=False)


def test_symmetric_uint8_is_refused():
    with pytest.raises(UsageError, match="int8"):
        activation_params(0.0, 1.0, "uint8", symmetric=True)


@given(
    st.lists(st.floats(min_value=-1e6, max_value=1e6, width=32), min_size=1, max_size=8),
    st.floats(min_value=1e-6, max_value=1e3),
)
def test_bias_at_the_least_scale_fits_int32(bias, input_scale):
    values = np.float32(bias)
    scales = np.maximum(least_bias_scale(values, input_scale), MIN_SCALE).astype(np.float32)
    stored = quantize_bias(values, input_scale, scales)
    assert np.abs(stored.astype(np.int64)).max() <= BIAS_LIMIT * 1.001


def test_bias_that_leaves_int32_is_refused_by_name():
    with pytest.raises(UsageError, match="channel 1"):
        quantize_bias(np.float32([0.0, 5.0]), 1e-3, np.float32([1e-3, 1e-8]))
