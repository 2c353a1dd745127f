from __future__ import annotations

import numpy as np
import pytest

from edgeres.calibrators import choose_all, mse, percentile
from edgeres.calibrators.base import Summary
from edgeres.quantization.histogram import GrowingHistogram
from edgeres.quantization.scales import activation_params, dequantize_array, quantize_array


def summary(values: np.ndarray) -> Summary:
    histogram = GrowingHistogram()
    values = values.astype(np.float32)
    histogram.add(values, float(np.abs(values).max()))
    low, high = float(values.min()), float(values.max())
    return Summary(low, high, histogram.counts, histogram.width, histogram.zeros)


def error(values: np.ndarray, low: float, high: float, *, symmetric: bool) -> float:
    params = activation_params(low, high, "int8" if symmetric else "uint8", symmetric=symmetric)
    back = dequantize_array(quantize_array(values, params), params)
    return float(np.square(back.astype(np.float64) - values).mean())


random = np.random.default_rng(0)
SHAPES = {
    "relu": np.maximum(random.standard_normal(20_000), 0),
    "laplace": random.laplace(size=20_000),
    "skewed": random.exponential(size=20_000) - 0.3,
    "outlier": np.append(np.abs(random.standard_normal(20_000)), [60.0]),
    "gate": random.uniform(0.8, 1.0, 20_000),
    "negative": -np.abs(random.standard_normal(10_000)),
}


@pytest.mark.parametrize("name", SHAPES)
def test_mse_is_close_to_the_best_of_a_brute_force_search(name):
    values = SHAPES[name].astype(np.float32)
    found = mse.choose(summary(values))
    low, high = float(min(values.min(), 0)), float(max(values.max(), 0))
    shares = np.linspace(0.04, 1.0, 25)
    best = min(
        error(values, low * a, high * b, symmetric=False)
        for a in (shares if low < 0 else [1.0])
        for b in (shares if high > 0 else [1.0])
    )
    assert error(values, found.low, found.high, symmetric=False) <= 1.05 * best
    top = max(-low, high)
    best = min(error(values, -top * a, top * a, symmetric=True) for a in shares)
    got = error(values, -found.magnitude, found.magnitude, symmetric=True)
    assert got <= 1.05 * best


@pytest.mark.parametrize("name", SHAPES)
def test_every_calibrator_stays_inside_what_was_seen_and_holds_zero(name):
    values = SHAPES[name].astype(np.float32)
    for found in choose_all(summary(values)).values():
        assert min(values.min(), 0) <= found.low <= 0.0 <= found.high <= max(values.max(), 0)
        assert 0.0 < found.magnitude <= np.abs(values).max()


def test_a_lone_outlier_is_clipped_by_all_but_minmax():
    ranges = choose_all(summary(SHAPES["outlier"]))
    assert ranges["minmax"].high == 60.0
    assert percentile.choose(summary(SHAPES["outlier"]), kept=99.9).high < 15.0
    # One squared error of 45 costs more than finer steps for all the others gain.
    assert 15.0 < ranges["mse"].high < 60.0


def test_midway_lies_between_the_least_error_and_everything():
    for values in SHAPES.values():
        ranges = choose_all(summary(values))
        one, middle, other = (ranges[name] for name in ("mse", "midway", "minmax"))
        for end in ("low", "high", "magnitude"):
            ends = sorted((getattr(one, end), getattr(other, end)))
            assert getattr(middle, end) ** 2 == pytest.approx(ends[0] * ends[1])


def test_percentile_keeps_the_share_that_was_asked_for():
    values = SHAPES["relu"].astype(np.float32)
    for kept in (95.0, 99.0, 99.9):
        found = percentile.choose(summary(values), kept=kept)
        counted = values[values > 0]  # zeros are exact in any range
        assert found.high == pytest.approx(np.percentile(counted, kept), rel=0.01)
    values = SHAPES["laplace"].astype(np.float32)
    found = percentile.choose(summary(values), kept=99.0)
    assert found.low == pytest.approx(np.percentile(values, 0.5), rel=0.02)
    assert found.high == pytest.approx(np.percentile(values, 99.5), rel=0.02)


def test_all_zero_tensor():
    ranges = choose_all(summary(np.zeros(9)))
    assert {(r.low, r.high, r.magnitude) for r in ranges.values()} == {(0.0, 0.0, 0.0)}


@pytest.mark.parametrize("rare", [0, 20])
def test_a_sample_that_misses_the_message_gives_the_whole_range(rare):
    """A ReLU that seldom fires: the sample is zeros, and the extremes know better."""
    values = np.zeros(100_000, np.float32)
    values[:rare] = 0.5
    histogram = GrowingHistogram()
    histogram.add(values, 8.0)
    seen = Summary(0.0, 8.0, histogram.counts, histogram.width, histogram.zeros)
    for calibrator, found in choose_all(seen).items():
        assert (found.high, found.magnitude) == (8.0, 8.0), calibrator


def test_a_sparse_tensor_keeps_its_values():
    """One value in a hundred thousand: less than what percentile leaves out of all values."""
    values = np.zeros(20_000_000, np.float32)
    values[:200] = np.linspace(1.0, 2.0, 200)
    for calibrator, found in choose_all(summary(values)).items():
        assert found.high > 1.9, calibrator
