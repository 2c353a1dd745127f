"""What networks that were built later teach a latency model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgeres.errors import UsageError
from edgeres.layer_latency.correct import SeenNetwork, corrected
from edgeres.layer_latency.predict import LatencyModel, even_widths, make_model
from edgeres.layer_latency.shapes import network_layers
from edgeres.layer_latency.table import NetworkTime

from .test_predict import made_up_table

SLOW = "a.conv2"


@pytest.fixture
def model(network: Path) -> LatencyModel:
    """A table by which every layer is right but one, whose shape takes twice as long as it says."""
    layers = network_layers(network)
    plain = LatencyModel(made_up_table(layers), layers, (), 0.0, 1.0)
    times = []
    for share in (1.0, 0.7, 0.4):
        widths = even_widths(layers, share)
        times.append(NetworkTime(share, plain.sum_ms(widths), truth(plain, widths)))
    return make_model(layers, plain.table, times)


def truth(model: LatencyModel, widths: dict) -> float:
    """Milliseconds of a device on which that layer is dear."""
    key = next(layer.shape.key for layer in model.layers if layer.name == SLOW)
    return replace(model, offset_ms=0.2, scale=1.0, factors={key: 2.0}).predict_ms(widths)


def test_a_network_that_was_slower_than_predicted_is_explained(model: LatencyModel) -> None:
    narrow = {"a.conv1": (16, 8), SLOW: (8, 32)}
    wide = {"conv1": (3, 8), "a.conv1": (8, 32), "a.down": (8, 32)}
    seen = [SeenNetwork(widths, truth(model, widths)) for widths in (narrow, wide)]
    before = [model.predict_ms(n.widths) / n.measured_ms - 1 for n in seen]
    assert max(map(abs, before)) > 0.1
    better = corrected(model, seen)
    after = [better.predict_ms(n.widths) / n.measured_ms - 1 for n in seen]
    assert max(map(abs, after)) < 0.03
    # the layer that is dear is found, and widths that nobody measured are predicted better
    assert max(better.factors, key=lambda key: better.factors[key]) == next(
        layer.shape.key for layer in model.layers if layer.name == SLOW
    )
    other = {"a.conv1": (16, 16), SLOW: (16, 32)}
    wanted = truth(model, other)
    assert abs(better.predict_ms(other) - wanted) < 0.5 * abs(model.predict_ms(other) - wanted)
    # the even networks are not forgotten
    for time in model.networks:
        told = better.predict_ms(even_widths(model.layers, time.share))
        assert told == pytest.approx(time.measured_ms, rel=0.06)


def test_nothing_seen_changes_nothing(model: LatencyModel) -> None:
    assert corrected(model, []).predict_ms({}) == pytest.approx(model.predict_ms({}))
    once = corrected(model, [SeenNetwork({SLOW: (16, 32)}, 1.0)])
    assert corrected(once, []).factors == {}
    with pytest.raises(UsageError, match="above 0"):
        corrected(model, [SeenNetwork({}, 0.0)])


def test_one_wild_measurement_cannot_turn_a_layer_to_nothing(model: LatencyModel) -> None:
    wild = corrected(model, [SeenNetwork({SLOW: (16, 32)}, 1e-6)])
    assert min(wild.factors.values()) >= 0.25
