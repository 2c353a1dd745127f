"""How much of the logits each layer's quantization costs: which layers to keep an eye on, or float.

One layer at a time is quantized, weights and activations, and all others stay float; the Q/DQ model
then runs as it is written, on a few hundred images. The noise that single layers bring to the
logits nearly adds up to that of the whole network, so a layer's share says what keeping it in float
would win (the layer-wise analysis of Wu et al., "Integer Quantization for Deep Learning
Inference", arXiv:2004.09602, section 5.2). The other way round, all layers but one, is exact where
noises are not independent, and costs more.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeres.backends.base import QdqRules
from edgeres.errors import DataError
from edgeres.graph.layers import load_model, node_name
from edgeres.graph.summary import node_macs
from edgeres.quantization.placement import Placement, place
from edgeres.quantization.quantize import Prepared, prepare, quantize
from edgeres.quantization.settings import QuantizeSettings
from edgeres.quantization.simulate import simulated_logits
from edgeres.quantization.table import CalibrationTable
from edgeres.quantization.trained import TrainedLayer, TrainedParameters
from edgeres.sqnr import EQUAL_DB, bounded_db, sqnr_db

"""Stands for logits that are equal to the last bit."""


@dataclass(frozen=True)
class Effect:
    """What some quantization does to the logits, against the FP32 model.

    Attributes:
        sqnr_db: Signal to noise, at most :data:`EQUAL_DB`.
        agreement: Share of images with the same class, in [0, 1].
        top1: Share of images with the right class; ``None`` without labels.
    """

    sqnr_db: float
    agreement: float
    top1: float | None

    @property
    def noise(self) -> float:
        """Noise power over signal power."""
        return 10 ** (-self.sqnr_db / 10)


@dataclass(frozen=True)
class NodeSensitivity:
    """One node: the effect of quantizing it alone, and (where asked) everything but it."""

    node: str
    op: str
    macs: int
    only: Effect
    all_but: Effect | None = None


@dataclass(frozen=True)
class Sensitivity:
    """A network's layers, the most sensitive first.

    Attributes:
        rules: Name of the rule set.
        samples: Number of images.
        fp32_top1: Of the FP32 model; ``None`` without labels.
        quantized: With everything quantized.
        nodes: One entry for each node that becomes INT8.
    """

    rules: str
    samples: int
    fp32_top1: float | None
    quantized: Effect
    nodes: tuple[NodeSensitivity, ...]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self) | {"nodes": [asdict(node) for node in self.nodes]}


def sensitivity(
    onnx: Path,
    table: CalibrationTable,
    rules: QdqRules,
    images: NDArray[np.float32],
    labels: NDArray[np.int64] | None = None,
    *,
    settings: QuantizeSettings | None = None,
    all_but: bool = False,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Sensitivity:
    """Measures each layer's share of the quantization noise.

    Args:
        onnx: FP32 model in normal form.
        table: Its calibration table.
        rules: Of the backend and device that will run it.
        images: ``(N, C, H, W) float32``, better not those that calibrated.
        labels: ``(N,) int64`` classes, for accuracy.
        settings: How it is quantized; always rounded to nearest and with the analytic bias
            correction, if any, since what measures on images would fit those that it is judged by.
        all_but: Also quantize everything but each node.
        threads: Threads of ONNX Runtime; ``None`` leaves it the choice.
        progress: Called with models run and models in all.

    Raises:
        DataError: There are no images, or another number of labels.
        EdgeResError: As :func:`edgeres.quantization.quantize.quantize`.
    """
    if not len(images) or (labels is not None and len(labels) != len(images)):
        raise DataError(
            f"expected images, and a label for each or none, got {len(images)} images and "
            f"{0 if labels is None else len(labels)} labels.",
            hint="Give some hundred images.",
        )
    settings = replace(settings or QuantizeSettings(), rounding="nearest", bias_method="analytic")
    prepared = prepare(onnx, table, rules, settings)
    graph = load_model(onnx).graph
    ops = {node_name(node): node.op_type for node in graph}
    names = prepared.placement.quantized_nodes
    macs = node_macs(onnx)
    exact = simulated_logits(onnx, [images], threads=threads)
    total = 1 + len(names) * (2 if all_but else 1)
    done = 0

    def effect(kept: frozenset[str]) -> Effect:
        nonlocal done
        with tempfile.TemporaryDirectory() as folder:
            qdq = Path(folder) / "model.onnx"
            changed = replace(rules, keep_float=rules.keep_float | kept)
            found = _found(prepared, place(load_model(onnx).graph, changed), table)
            quantize(onnx, table, changed, qdq, settings, trained=found)
            logits = simulated_logits(qdq, [images], threads=threads)
        done += 1
        if progress is not None:
            progress(done, total)
        return effect_of(exact, logits, labels)

    found = [
        NodeSensitivity(
            node=name,
            op=ops[name],
            macs=macs.get(name, 0),
            only=effect(frozenset(names) - {name}),
            all_but=effect(frozenset({name})) if all_but else None,
        )
        for name in names
    ]
    found.sort(key=lambda item: item.only.sqnr_db)
    return Sensitivity(
        rules=rules.name,
        samples=len(images),
        fp32_top1=_top1(exact, labels),
        quantized=effect(frozenset()),
        nodes=tuple(found),
    )


def _found(
    prepared: Prepared, placement: Placement, table: CalibrationTable
) -> TrainedParameters | None:
    """Scales and biases of the layers that a placement keeps, searched once for all placements.

    Weights are those that the integers stand for, so that rounding gives the same again. ``None``
    where the placement asks for something that quantizing everything did not, or gives a tensor
    another scale, on which the bias of a layer rests.
    """
    items = {item.layer.name: item for item in prepared.items}
    of_source = {
        source: prepared.params[name] for name, source in prepared.placement.source.items()
    }
    wanted = [layer.name for layer in placement.layers]
    sources = set(placement.source.values())
    same = all(
        prepared.placement.source.get(name) == source for name, source in placement.source.items()
    )
    if not same or not items.keys() >= set(wanted):
        return None
    layers = {
        name: TrainedLayer(
            items[name].weight.dequantized, items[name].weight.scales, items[name].bias
        )
        for name in wanted
    }
    return TrainedParameters(
        table.model_sha256, layers, {source: of_source[source] for source in sources}
    )


def effect_of(
    exact: NDArray[np.float32], logits: NDArray[np.float32], labels: NDArray[np.int64] | None
) -> Effect:
    """Compares logits ``(N, K)`` with the FP32 model's; a sample with NaN or Inf never agrees."""
    finite = np.asarray(np.isfinite(logits).all(axis=1))
    same = (exact.argmax(axis=1) == logits.argmax(axis=1)) & finite
    noise = sqnr_db(exact, logits) if finite.all() else -EQUAL_DB
    return Effect(
        sqnr_db=bounded_db(noise),
        agreement=float(same.mean()),
        top1=_top1(np.where(finite[:, None], logits, np.nan), labels),
    )


def _top1(logits: NDArray[np.float32], labels: NDArray[np.int64] | None) -> float | None:
    if labels is None:
        return None
    right = (logits.argmax(axis=1) == labels) & np.isfinite(logits).all(axis=1)
    return float(right.mean())
