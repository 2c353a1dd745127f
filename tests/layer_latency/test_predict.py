"""The line through measured networks, and what it says of other widths."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeres.errors import StageError, UsageError
from edgeres.layer_latency.measure import width_grid
from edgeres.layer_latency.predict import LatencyModel, make_model
from edgeres.layer_latency.shapes import NetworkLayer, network_layers
from edgeres.layer_latency.table import LatencyTable, NetworkTime, ShapeTimes

from .test_table import PLACE


def made_up_table(layers: tuple[NetworkLayer, ...]) -> LatencyTable:
    """Milliseconds that are a thousandth of the product of the widths, for every shape."""
    table = LatencyTable(PLACE)
    for layer in layers:
        inputs, outputs = width_grid([n for n in layers if n.shape == layer.shape])
        times = tuple(tuple((i or o) * o / 1000 for o in outputs) for i in inputs)
        table = table.with_shape(layer.shape, ShapeTimes(inputs, outputs, times))
    return table


def test_the_line_goes_through_the_networks(network: Path) -> None:
    layers = network_layers(network)
    times = [NetworkTime(s, x, 0.5 + 2 * x) for s, x in ((1.0, 3.0), (0.7, 2.0), (0.4, 1.0))]
    model = make_model(layers, made_up_table(layers), times)
    assert model.offset_ms == pytest.approx(0.5)
    assert model.scale == pytest.approx(2.0)
    assert model.dense_ms == 6.5
    full = sum(n.inputs * n.outputs for n in layers) / 1000
    assert model.sum_ms({}) == pytest.approx(full)
    narrower = model.sum_ms({"a.conv2": (32, 16)})
    assert narrower == pytest.approx(full - 32 * 16 / 1000)
    assert model.predict_ms({}) == pytest.approx(0.5 + 2 * full)
    single = make_model(layers, made_up_table(layers), times[:1])
    assert single.predict_ms({}) == pytest.approx(full * 6.5 / 3.0)


def test_networks_that_make_no_sense_are_refused(network: Path) -> None:
    layers = network_layers(network)
    falling = [NetworkTime(1.0, 3.0, 1.0), NetworkTime(0.5, 1.0, 3.0)]
    with pytest.raises(StageError, match="do not get slower"):
        make_model(layers, made_up_table(layers), falling)
    wild = [NetworkTime(s, x, y) for s, x, y in ((1.0, 3.0, 3.0), (0.7, 2.0, 4.0), (0.4, 1.0, 1.0))]
    with pytest.raises(StageError, match="do not explain"):
        make_model(layers, made_up_table(layers), wild)
    flat = [NetworkTime(s, x, y) for s, x, y in ((1.0, 3.0, 3.0), (0.7, 2.8, 2.0), (0.4, 2.6, 1.0))]
    with pytest.raises(StageError, match=r"do not explain.*-12 ms"):
        make_model(layers, made_up_table(layers), flat)
    with pytest.raises(UsageError, match="at least one"):
        make_model(layers, made_up_table(layers), [])
    assert isinstance(make_model(layers, made_up_table(layers), falling[:1]), LatencyModel)
