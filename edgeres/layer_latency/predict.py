"""What a network of given widths will take: the sum of its layers, set right by whole networks.

Between layers an engine does what no layer shows alone: it converts layouts, waits for threads and
reads weights that are no longer in a cache. So the whole network is measured at three shares of its
widths, and the line ``time = offset + scale * sum`` that fits them best is what predictions follow.
Networks of other widths that are measured later correct the layers one by one; see
:mod:`edgeres.layer_latency.correct`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import lcm
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeres.benchmarking.latency import MeasureSettings
from edgeres.errors import StageError, UsageError
from edgeres.layer_latency.measure import (
    LAYER_TIMES,
    measure_layers,
    measurement_context,
    open_table,
    time_models,
)
from edgeres.layer_latency.shapes import NetworkLayer, network_layers
from edgeres.layer_latency.synthetic import Widths, write_narrowed
from edgeres.layer_latency.table import LatencyTable, NetworkTime, Precision
from edgeres.system.files import file_sha256
from edgeres.system.progress import ProgressCallback
from edgeres.system.temporary import temporary_folder

if TYPE_CHECKING:
    from edgeres.backends.target import Target

NETWORK_SHARES = (1.0, 0.7, 0.4)
NETWORK_TIMES = MeasureSettings(
    seconds=2.0, rounds=8, min_runs=40, max_seconds=20.0, warmup_seconds=2.0
)
_STEP = 8
_LARGEST_ERROR = 0.15  # relative, at the networks that the line was fitted to
_LARGEST_CREDIT = 0.5  # of the full network, by which the line may start below zero


@dataclass(frozen=True)
class LatencyModel:
    """Predicts the latency of a network from its layers' widths.

    Attributes:
        table: Times of its layers.
        layers: Its layers at full width.
        networks: The whole networks that set it right; the first is the full one.
        offset_ms: Of the line ``offset + scale * sum``.
        scale: Likewise.
        factors: What the layers of a shape take in a whole network over what the line says, by
            :attr:`~edgeres.layer_latency.shapes.LayerShape.key`; 1 where none is named.
    """

    table: LatencyTable
    layers: tuple[NetworkLayer, ...]
    networks: tuple[NetworkTime, ...]
    offset_ms: float
    scale: float
    factors: Mapping[str, float] = field(default_factory=dict)

    @property
    def dense_ms(self) -> float:
        """The full network as measured, which shares are of."""
        return self.networks[0].measured_ms

    def sum_ms(self, widths: Widths) -> float:
        """Sum over the layers; one that is not named keeps its width."""
        return sum(
            self.table.layer_ms(layer.shape, *widths.get(layer.name, (layer.inputs, layer.outputs)))
            for layer in self.layers
        )

    def layer_ms(self, layer: NetworkLayer, inputs: int, outputs: int) -> float:
        """What a layer adds to the time of the whole network, in milliseconds."""
        factor = self.scale * self.factors.get(layer.shape.key, 1.0)
        return factor * self.table.layer_ms(layer.shape, inputs, outputs)

    def predict_ms(self, widths: Widths) -> float:
        """Milliseconds of one run of the whole network; a layer not named keeps its width."""
        return self.offset_ms + sum(
            self.layer_ms(layer, *widths.get(layer.name, (layer.inputs, layer.outputs)))
            for layer in self.layers
        )


def make_model(
    layers: Sequence[NetworkLayer], table: LatencyTable, networks: Sequence[NetworkTime]
) -> LatencyModel:
    """Fits the line to measured networks, by least squares of the relative error.

    Raises:
        UsageError: No measured network.
        StageError: The times do not follow the sum: they were disturbed.
    """
    if not networks:
        raise UsageError("expected at least one measured network, got none.")
    measured = np.array([time.measured_ms for time in networks])
    sums = np.array([time.sum_ms for time in networks])
    if len(set(sums.tolist())) < 2:
        return LatencyModel(
            table, tuple(layers), tuple(networks), 0.0, float(measured[0] / sums[0])
        )
    rows = np.stack([1 / measured, sums / measured], axis=1)
    (offset, scale), *_ = np.linalg.lstsq(rows, np.ones(len(measured)), rcond=None)
    if not scale > 0:
        raise StageError(
            "the measured networks do not get slower with their layers: "
            f"{', '.join(f'{time.measured_ms:.3g} ms' for time in networks)}.",
            hint="Measure again while nothing else runs.",
        )
    off = float(np.abs(rows @ np.array([offset, scale]) - 1).max())
    # Layers may hide behind each other, but hardly add up to more than the network by much.
    if off > _LARGEST_ERROR or offset < -_LARGEST_CREDIT * measured[0]:
        raise StageError(
            "the layers' times do not explain the whole network's: the best line is "
            f"{offset:.3g} ms + {scale:.3g} * sum, off by up to {100 * off:.0f} %.",
            hint="Run it again while nothing else runs; remove a table of your own first.",
        )
    return LatencyModel(table, tuple(layers), tuple(networks), float(offset), float(scale))


def latency_model(
    onnx: Path,
    target: Target,
    *,
    precision: Precision = "int8",
    threads: int | None = None,
    batch: int = 1,
    path: Path | None = None,
    layer_times: MeasureSettings = LAYER_TIMES,
    network_times: MeasureSettings = NETWORK_TIMES,
    progress: ProgressCallback | None = None,
) -> LatencyModel:
    """Measures what is missing and returns the latency model of a network.

    Args:
        onnx: The full FP32 network in normal form.
        target: Backend and device; it must be able to run here.
        precision: Of the engines that are timed.
        threads: CPU threads.
        batch: Images in a run.
        path: File of the latency table, read and extended; ``None`` keeps none.
        layer_times: How long each layer's engine is timed.
        network_times: How long each whole network is timed.
        progress: Called with (steps done, steps in all).

    Raises:
        BackendMissingError: Engines of this target cannot run here.
        ArtefactError: ``path`` is of another machine, backend or version.
        ModelError: The network cannot be read or made narrower.
        StageError: The times were disturbed; see :func:`make_model`.
    """
    place = measurement_context(target, precision=precision, threads=threads, batch=batch)
    layers = network_layers(onnx)
    table = measure_layers(
        layers, target, place, path=path, settings=layer_times, progress=progress
    )
    sha256 = file_sha256(onnx)
    if sha256 not in table.networks:
        times = _network_times(onnx, layers, target, table, network_times)
        table = (open_table(path, place) if path else table).with_network(sha256, times)
        if path is not None:
            table.save(path)
    return make_model(layers, table, table.networks[sha256])


def even_widths(layers: Sequence[NetworkLayer], share: float) -> Widths:
    """Every layer at the same share of its channels, in multiples of 8; ends stay as they are."""

    def narrowed(width: int, unit: int) -> int:
        step = lcm(_STEP, unit or 1)
        return width if share >= 1 else min(width, max(step, round(width * share / step) * step))

    # A grouped convolution rounds its group's channels, and these are the inputs of the next.
    units: dict[int, int] = {}
    for layer in layers:
        if layer.shape.unit:
            units[layer.outputs] = lcm(units.get(layer.outputs, 1), layer.shape.unit)
    return {
        layer.name: (
            layer.inputs
            if layer.reads_image
            else narrowed(layer.inputs, units.get(layer.inputs, 1)),
            layer.outputs
            if layer.gives_logits
            else narrowed(layer.outputs, units.get(layer.outputs, 1)),
        )
        for layer in layers
    }


def measure_networks(
    onnx: Path,
    widths: Mapping[str, Widths],
    target: Target,
    table: LatencyTable,
    settings: MeasureSettings = NETWORK_TIMES,
) -> dict[str, float]:
    """p50 in milliseconds of a network at several widths, which take turns.

    Raises:
        ModelError: Widths that do not fit together.
        EdgeResError: As the quantizer and the backend.
    """
    with temporary_folder() as folder:
        models = {}
        for label, layer_widths in widths.items():
            models[label] = folder / f"{label}.onnx"
            write_narrowed(onnx, layer_widths, models[label])
        shapes = target.config.shapes
        latencies = time_models(models, target, table.place, folder, settings, shapes=shapes)
    return {label: latency.p50_ms for label, latency in latencies.items()}


def _network_times(
    onnx: Path,
    layers: Sequence[NetworkLayer],
    target: Target,
    table: LatencyTable,
    settings: MeasureSettings,
) -> list[NetworkTime]:
    by_share = {f"{share:g}": even_widths(layers, share) for share in NETWORK_SHARES}
    times_ms = measure_networks(onnx, by_share, target, table, settings)
    plain = LatencyModel(table, tuple(layers), (), 0.0, 1.0)
    return [
        NetworkTime(share, plain.sum_ms(widths), times_ms[f"{share:g}"])
        for share, widths in zip(NETWORK_SHARES, by_share.values(), strict=True)
    ]
