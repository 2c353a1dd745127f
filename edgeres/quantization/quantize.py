"""The quantization stage: an FP32 model, its calibration table and a rule set in, Q/DQ ONNX out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeres.backends.base import QdqRules
from edgeres.errors import ModelError, UsageError
from edgeres.graph.layers import Layer, load_model, value_name
from edgeres.quantization.bias import corrected_bias, input_stats, shifted_bias
from edgeres.quantization.byte_input import take_bytes
from edgeres.quantization.empirical import anchors, measured_shifts, output_means
from edgeres.quantization.floors import floored
from edgeres.quantization.integer_clips import guard_clips
from edgeres.quantization.lint import lint_model
from edgeres.quantization.mean_steps import coarse_enough
from edgeres.quantization.norms import write_norms
from edgeres.quantization.placement import Placement, place
from edgeres.quantization.qat_parameters import QatParameters
from edgeres.quantization.qdq import (
    QuantizedLayer,
    drop_unused,
    guard_float_layers,
    insert_activations,
    insert_barriers,
    insert_layer,
)
from edgeres.quantization.qdq_view import Finding
from edgeres.quantization.saturation import SaturationProof
from edgeres.quantization.scales import QuantParams, least_bias_scale
from edgeres.quantization.sequential import learn_network
from edgeres.quantization.strided_layers import sample_in_front
from edgeres.quantization.table import CalibrationTable
from edgeres.quantization.tensor_scales import tensor_scales
from edgeres.quantization.weights import QuantizedWeight, quantize_weight
from edgeres.recipe.quantize import QuantizeSettings
from edgeres.system.container_limits import usable_threads
from edgeres.system.files import write_atomic
from edgeres.system.freed_memory import freed_memory_kept


@dataclass(frozen=True)
class QuantizeResult:
    """What was written and what was done.

    Attributes:
        path: The Q/DQ model.
        quantized_nodes: Nodes that an engine can run in INT8.
        float_nodes: Name to the reason, for arithmetic that stays float.
        dead_channels: Layer name to output channels whose weights are all zero; they got a valid
            scale.
        dead_tensors: Activations that were zero for every calibration image, likewise.
        saturation: Layer name to the exhaustive bound on its int16 sums.
        weight_sqnr_db: Layer name to signal over quantization noise of its weights.
        findings: Where the file does not obey the rule set, apart from ``float_nodes``; empty
            unless the model or the settings force it.
        rounding_gain_db: Layer name to how much learned rounding lowered the squared error of its
            output on the images, in dB; empty for nearest rounding.
    """

    path: Path
    quantized_nodes: tuple[str, ...]
    float_nodes: Mapping[str, str]
    dead_channels: Mapping[str, tuple[int, ...]]
    dead_tensors: tuple[str, ...]
    saturation: Mapping[str, SaturationProof]
    weight_sqnr_db: Mapping[str, float]
    findings: tuple[Finding, ...] = ()
    rounding_gain_db: Mapping[str, float] = field(default_factory=dict)

    @property
    def saturation_safe(self) -> bool:
        """Whether no sum of two products can leave int16, whatever the image."""
        return all(proof.safe for proof in self.saturation.values())

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a person should know, in words."""
        texts = [f"{name} was zero for every calibration image" for name in self.dead_tensors]
        for name, channels in self.dead_channels.items():
            listed = ", ".join(map(str, channels[:8])) + (", ..." if len(channels) > 8 else "")
            texts.append(f"{name}: output channels without weights: {listed}")
        texts.extend(f"{finding.node}: {finding.message}" for finding in self.findings)
        return tuple(texts)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "quantized_nodes": list(self.quantized_nodes),
            "float_nodes": dict(self.float_nodes),
            "dead_channels": {name: list(c) for name, c in self.dead_channels.items()},
            "dead_tensors": list(self.dead_tensors),
            "saturation_safe": self.saturation_safe,
            "saturation": {
                name: {
                    "highest": proof.highest,
                    "lowest": proof.lowest,
                    "moved": proof.moved,
                    "pairs": proof.pairs,
                    "safe": proof.safe,
                }
                for name, proof in self.saturation.items()
            },
            # Weights that INT8 represents exactly have no finite SQNR.
            "weight_sqnr_db": {
                name: value if math.isfinite(value) else None
                for name, value in self.weight_sqnr_db.items()
            },
            "rounding_gain_db": dict(self.rounding_gain_db),
            "warnings": list(self.warnings),
        }


def quantize(
    onnx: Path,
    table: CalibrationTable,
    rules: QdqRules,
    out: Path,
    settings: QuantizeSettings | None = None,
    *,
    images: NDArray[np.float32] | None = None,
    qat: QatParameters | None = None,
) -> QuantizeResult:
    """Writes the Q/DQ model that one rule set asks for.

    Args:
        onnx: FP32 model in normal form.
        table: Its calibration table.
        rules: Of the backend and device that will run it.
        out: Where the Q/DQ ``.onnx`` goes; equal inputs give equal bytes.
        settings: How; the defaults are those of a recipe.
        images: ``(N, C, H, W) float32`` calibration images for what is measured (the empirical
            bias correction, learned rounding); 32 to 128 are enough, and all are in memory at once.
        qat: Weights, biases and scales that training under these rules learned; they are
            written as they are, with no search and no correction.

    Raises:
        ModelError: The model cannot be read, or nothing in it can be INT8 under these rules.
        ArtefactError: The table or what was trained is of another model or lacks a tensor.
        UsageError: A measured correction without images.
        StorageError: ``out`` cannot be written.
    """
    settings = settings or QuantizeSettings()
    # Faster for what works layer by layer on all images; the rest would only hold more memory.
    with freed_memory_kept() if settings.needs_images else nullcontext():
        return _quantize(onnx, table, rules, out, settings, images, qat)


def _quantize(
    onnx: Path,
    table: CalibrationTable,
    rules: QdqRules,
    out: Path,
    settings: QuantizeSettings,
    images: NDArray[np.float32] | None,
    qat: QatParameters | None,
) -> QuantizeResult:
    prepared = prepare(onnx, table, rules, settings, qat=qat)
    placement, params, items = prepared.placement, prepared.params, list(prepared.items)
    gains: dict[str, float] = {}
    if qat is None and settings.needs_images:
        shown = _required(images)
        if settings.rounding == "learned":
            items, gains = learn_network(
                _assemble(load_model(onnx), items, params, rules),
                items,
                rules,
                shown,
                lambda item, weight: _bias(item.layer, weight, table, settings),
                centred=[_corrects(item.layer, table, settings) for item in items],
                saturating=prepared.saturating,
            )
        if settings.bias_correction == "empirical":
            items = _measured(onnx, items, params, rules, shown)
    qdq = _assemble(prepared.model, items, params, rules)
    misplaced = lint_model(qdq, rules)
    take_bytes(qdq)
    write_atomic(out, ir.to_proto(qdq).SerializeToString(deterministic=True))
    weights = {item.layer.name: item.weight for item in items}
    return QuantizeResult(
        path=out,
        quantized_nodes=placement.quantized_nodes,
        float_nodes=placement.float_nodes,
        dead_channels={n: w.dead_channels for n, w in weights.items() if w.dead_channels},
        dead_tensors=tuple(n for n in placement.tensors if table.tensors[placement.source[n]].dead),
        saturation={name: weight.proof for name, weight in weights.items()},
        weight_sqnr_db={name: weight.sqnr_db for name, weight in weights.items()},
        findings=(
            *(f for f in misplaced if f.node not in placement.float_nodes),
            *floored(placement, params, table, rules, settings.calibrator),
        ),
        rounding_gain_db=gains,
    )


@dataclass(frozen=True)
class Prepared:
    """Everything that a Q/DQ file says, before it is written.

    Attributes:
        model: The float model that placement and layers are of.
        placement: Where Q/DQ stands.
        params: Scale and zero point by tensor name.
        items: Layers with their INT8 weights and biases, in the placement's order.
        saturating: Whether the weights obey the saturation rule.
    """

    model: ir.Model
    placement: Placement
    params: Mapping[str, QuantParams]
    items: tuple[QuantizedLayer, ...]
    saturating: bool


def prepare(
    onnx: Path,
    table: CalibrationTable,
    rules: QdqRules,
    settings: QuantizeSettings,
    *,
    qat: QatParameters | None = None,
) -> Prepared:
    """Decides placement, scales and integers; arguments and errors as :func:`quantize`."""
    table.check_model(onnx)
    model = load_model(onnx)
    placement = place(model.graph, rules)
    if not placement.layers and not (rules.keep_float and placement.quantized_nodes):
        raise ModelError(
            f"{onnx}: nothing in it can run in INT8 on {rules.name}.",
            hint="It needs convolutions or matrix products with constant weights.",
        )
    saturating = _safe_weights_wanted(settings, rules)
    if qat is not None:
        names = [layer.name for layer in placement.layers]
        qat.check(onnx, names, placement.source.values())
    params = tensor_scales(model, placement, table, rules, settings, qat)
    params = coarse_enough(placement, params, table, rules)

    def quantized(layer: Layer) -> QuantizedLayer:
        return _quantized(layer, params, table, rules, settings, qat, saturating=saturating)

    with ThreadPoolExecutor(usable_threads()) as pool:  # numpy works outside Python's lock
        items = tuple(pool.map(quantized, placement.layers))
    return Prepared(model, placement, params, items, saturating)


def _assemble(
    model: ir.Model,
    items: Sequence[QuantizedLayer],
    params: Mapping[str, QuantParams],
    rules: QdqRules,
) -> ir.Model:
    """Writes Q/DQ with these weights and biases into a float model, in place."""
    placement = place(model.graph, rules)
    insert_activations(model.graph, placement, params, pair_per_reader=rules.pair_per_reader)
    for layer, item in zip(placement.layers, items, strict=True):
        insert_layer(model.graph, replace(item, layer=layer), rules)
    if rules.float_norms:
        write_norms(model.graph)
    insert_barriers(model.graph, rules)
    if rules.sinks_strides:
        sample_in_front(model.graph)
    if rules.clips_integers:
        guard_clips(model.graph)
    if rules.quantizes_floats:
        guard_float_layers(model.graph)
    drop_unused(model.graph)
    return model


def _required(images: NDArray[np.float32] | None) -> NDArray[np.float32]:
    if images is None or not len(images):
        raise UsageError(
            "the empirical bias correction or learned rounding measures on images; got none.",
            hint="Give calibration images, or use `bias_correction: analytic` and "
            "`rounding: nearest`.",
        )
    return images


def _measured(
    onnx: Path,
    items: list[QuantizedLayer],
    params: Mapping[str, QuantParams],
    rules: QdqRules,
    images: NDArray[np.float32],
) -> list[QuantizedLayer]:
    """The layers with biases that give the float model's mean outputs on these images."""
    model = load_model(onnx)
    names = [item.layer.name for item in items if item.layer.takes_bias]
    places = anchors(model.graph, names)
    float_means = output_means(model, places, images)
    qdq = _assemble(load_model(onnx), items, params, rules)
    shifts = measured_shifts(qdq, places, float_means, images)
    return [
        replace(item, bias=shifted_bias(item, shifts[item.layer.name]))
        if item.layer.takes_bias
        else item
        for item in items
    ]


def _safe_weights_wanted(settings: QuantizeSettings, rules: QdqRules) -> bool:
    """The rule holds for signed activations too: engines add 128 and multiply them unsigned."""
    return settings.saturation_safe == "on" or (
        settings.saturation_safe == "auto" and rules.saturating
    )


def _quantized(
    layer: Layer,
    params: Mapping[str, QuantParams],
    table: CalibrationTable,
    rules: QdqRules,
    settings: QuantizeSettings,
    qat: QatParameters | None,
    *,
    saturating: bool,
) -> QuantizedLayer:
    value = layer.node.inputs[0]
    assert value is not None
    stats = input_stats(layer, table)
    input_scale = params[value_name(value)].scale
    mean, energy = stats.channel_mean, stats.channel_square
    has_statistics = mean.size > 0
    if _corrects(layer, table, settings):
        # The mean error goes into the bias, so only what varies around it counts.
        energy = np.maximum(energy - np.square(mean), 0.0)
    learned = None if qat is None else qat.layers[layer.name]
    weight = quantize_weight(
        layer if learned is None else replace(layer, weight=learned.weight),
        per_channel=rules.weight_granularity == "per_channel",
        # Whatever the file says: engines make an int32 bias of a float one.
        least_scales=None if layer.bias is None else least_bias_scale(layer.bias, input_scale),
        least_scale=rules.least_scale,
        energy=energy if has_statistics else None,
        saturating=saturating,
        scales=None if learned is None else learned.scales,
        balanced=settings.rounding == "nearest",
    )
    if learned is not None:
        trained_layer = replace(layer, weight=learned.weight)
        return QuantizedLayer(trained_layer, weight, learned.bias, input_scale)
    return QuantizedLayer(layer, weight, _bias(layer, weight, table, settings), input_scale)


def _corrects(layer: Layer, table: CalibrationTable, settings: QuantizeSettings) -> bool:
    """Whether the layer's bias takes up the mean error of its weights."""
    has_statistics = input_stats(layer, table).channel_mean.size > 0
    return settings.bias_correction != "off" and has_statistics and layer.takes_bias


def _bias(
    layer: Layer, weight: QuantizedWeight, table: CalibrationTable, settings: QuantizeSettings
) -> NDArray[np.float32] | None:
    if not _corrects(layer, table, settings):
        return layer.bias
    stats = input_stats(layer, table)
    return corrected_bias(layer, weight, stats.channel_mean, stats.shape)
