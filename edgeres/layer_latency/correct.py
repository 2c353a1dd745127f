"""Sets a latency model right by whole networks that were built because it chose them.

A search picks the widths whose predictions are too good, so the network that it picks tends to be
slower than predicted: the winner's curse. Measuring that very network shows by how much, and what
it has more of than the evenly narrowed ones shows where. The layers of each shape get a factor: the
most probable ones where a factor is 1 give or take 0.3 beforehand and measurements are off by a few
per cent (linear regression with a Gaussian prior; Bishop, Pattern Recognition and Machine Learning,
section 3.3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgeres.errors import UsageError
from edgeres.layer_latency.predict import LatencyModel, even_widths
from edgeres.layer_latency.synthetic import Widths

_SPREAD = 0.3  # of the factors, beforehand
_LINE_ERROR = 0.03  # relative, of networks narrowed evenly, through which the line goes
_ERROR = 0.01  # relative, of networks like those that are sought
_LEAST, _MOST = 0.25, 4.0


@dataclass(frozen=True)
class SeenNetwork:
    """A network of chosen widths that was built and measured.

    Attributes:
        widths: Input and output channels by layer.
        measured_ms: p50 in milliseconds, by the clock of the model's dense time.
    """

    widths: Widths
    measured_ms: float


def corrected(model: LatencyModel, seen: Sequence[SeenNetwork]) -> LatencyModel:
    """The model with a factor for each layer shape that explains what was measured.

    Args:
        model: Of the network; factors that it has already are forgotten.
        seen: All networks of chosen widths that were measured so far.

    Raises:
        UsageError: A measured time is not above 0.
    """
    if any(not network.measured_ms > 0 for network in seen):
        raise UsageError("expected measured times above 0 ms.", hint="Measure the networks again.")
    if not seen:
        return replace(model, factors={})
    points = [(even_widths(model.layers, n.share), n.measured_ms) for n in model.networks]
    errors = [_LINE_ERROR] * len(points) + [_ERROR] * len(seen)
    points += [(network.widths, network.measured_ms) for network in seen]
    keys = sorted({layer.shape.key for layer in model.layers})
    plain = replace(model, factors={})
    parts = np.array([_parts(plain, widths, keys) for widths, _ in points])
    measured = np.array([ms for _, ms in points])
    residuals = measured - model.offset_ms - parts.sum(axis=1)
    noise = np.diag((np.array(errors) * measured) ** 2)
    spread = _SPREAD**2 * parts
    gain = np.linalg.solve(spread @ parts.T + noise, residuals)
    factors = np.clip(1 + spread.T @ gain, _LEAST, _MOST)
    return replace(model, factors=dict(zip(keys, map(float, factors), strict=True)))


def _parts(model: LatencyModel, widths: Widths, keys: Sequence[str]) -> list[float]:
    """Milliseconds that the layers of each shape add."""
    sums = dict.fromkeys(keys, 0.0)
    for layer in model.layers:
        channels = widths.get(layer.name, (layer.inputs, layer.outputs))
        sums[layer.shape.key] += model.layer_ms(layer, *channels)
    return [sums[key] for key in keys]
