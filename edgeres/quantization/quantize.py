"""The quantization stage: an FP32 model, its calibration table and a rule set in, Q/DQ ONNX out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeres.backends.base import QdqRules
from edgeres.errors import ModelError, UsageError
from edgeres.files import write_atomic
from edgeres.quantization.bias import corrected_bias
from edgeres.quantization.empirical import anchors, measured_shifts, output_means
from edgeres.quantization.graph import Layer, load_model, value_name
from edgeres.quantization.lint import lint_model
from edgeres.quantization.placement import Placement, place
from edgeres.quantization.qdq import (
    QuantizedLayer,
    drop_unused,
    insert_activations,
    insert_layer,
)
from edgeres.quantization.qdq_view import Finding
from edgeres.quantization.saturation import SaturationProof
from edgeres.quantization.scales import QuantParams, activation_params, least_bias_scale
from edgeres.quantization.table import CalibrationTable
from edgeres.quantization.weights import quantize_weight


@dataclass(frozen=True)
class QuantizeSettings:
    """How activations and weights are quantized.

    Attributes:
        calibrator: Whose ranges of the table are used.
        bias_correction: Shift biases so that the mean output of a layer stays what it was.
        bias_method: ``analytic`` knows what weight rounding does to the mean and needs no images;
            ``empirical`` goes on from there and measures each layer on images, in order.
        saturation_safe: Make weights that no INT8 sum can take out of int16: ``auto`` where the
            rule set says that the device saturates, ``on`` always, ``off`` never.
    """

    calibrator: Literal["minmax", "moving_average", "percentile", "entropy", "mse"] = "mse"
    bias_correction: bool = True
    bias_method: Literal["analytic", "empirical"] = "analytic"
    saturation_safe: Literal["auto", "on", "off"] = "auto"


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
    """

    path: Path
    quantized_nodes: tuple[str, ...]
    float_nodes: Mapping[str, str]
    dead_channels: Mapping[str, tuple[int, ...]]
    dead_tensors: tuple[str, ...]
    saturation: Mapping[str, SaturationProof]
    weight_sqnr_db: Mapping[str, float]
    findings: tuple[Finding, ...] = ()

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
        texts.extend(f"{found.node}: {found.message}" for found in self.findings)
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
) -> QuantizeResult:
    """Writes the Q/DQ model that one rule set asks for.

    Args:
        onnx: FP32 model in normal form.
        table: Its calibration table.
        rules: Of the backend and device that will run it.
        out: Where the Q/DQ ``.onnx`` goes; equal inputs give equal bytes.
        settings: How; the defaults are those of a recipe.
        images: ``(N, C, H, W) float32`` calibration images for what is measured (the empirical
            bias correction); 32 to 128 are enough, and all are in memory at once.

    Raises:
        ModelError: The model cannot be read, or nothing in it can be INT8 under these rules.
        ArtefactError: The table is of another model or lacks a tensor.
        UsageError: A measured correction without images.
        StorageError: ``out`` cannot be written.
    """
    settings = settings or QuantizeSettings()
    table.check_model(onnx)
    model = load_model(onnx)
    placement = place(model.graph, rules)
    if not placement.layers and not (rules.keep_float and placement.quantized_nodes):
        raise ModelError(
            f"{onnx}: nothing in it can run in INT8 on {rules.name}.",
            hint="It needs convolutions or matrix products with constant weights.",
        )
    saturating = _safe_weights_wanted(settings, rules)
    params = _activation_params(placement, table, rules, settings)
    items = [
        _quantized(layer, params, table, rules, settings, saturating=saturating)
        for layer in placement.layers
    ]
    if settings.bias_correction and settings.bias_method == "empirical":
        items = _measured(onnx, items, params, rules, images)
    qdq = _assemble(onnx, items, params, rules)
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
        findings=tuple(
            found for found in lint_model(qdq, rules) if found.node not in placement.float_nodes
        ),
    )


def _assemble(
    onnx: Path, items: list[QuantizedLayer], params: Mapping[str, QuantParams], rules: QdqRules
) -> ir.Model:
    """A fresh Q/DQ model with these weights and biases."""
    model = load_model(onnx)
    placement = place(model.graph, rules)
    insert_activations(model.graph, placement, params, pair_per_reader=rules.pair_per_reader)
    for layer, item in zip(placement.layers, items, strict=True):
        insert_layer(model.graph, replace(item, layer=layer), rules)
    drop_unused(model.graph)
    return model


def _measured(
    onnx: Path,
    items: list[QuantizedLayer],
    params: Mapping[str, QuantParams],
    rules: QdqRules,
    images: NDArray[np.float32] | None,
) -> list[QuantizedLayer]:
    """The layers with biases that give the float model's mean outputs on these images."""
    if images is None or not len(images):
        raise UsageError(
            "the empirical bias correction measures on images; got none.",
            hint="Give calibration images, or use bias_method: analytic.",
        )
    model = load_model(onnx)
    names = [item.layer.name for item in items if item.layer.takes_bias]
    measured_at = anchors(model.graph, names)
    wanted = output_means(model, list(measured_at), images)
    found = measured_shifts(_assemble(onnx, items, params, rules), wanted, images)
    shifts = {measured_at[node]: shift for node, shift in found.items()}
    return [
        replace(item, bias=_shifted(item, shifts[item.layer.name]))
        if item.layer.takes_bias
        else item
        for item in items
    ]


def _shifted(item: QuantizedLayer, shift: NDArray[np.float64]) -> NDArray[np.float32]:
    return ((0.0 if item.bias is None else item.bias) + shift).astype(np.float32)


def _safe_weights_wanted(settings: QuantizeSettings, rules: QdqRules) -> bool:
    """The rule holds for signed activations too: engines add 128 and multiply them unsigned."""
    return settings.saturation_safe == "on" or (
        settings.saturation_safe == "auto" and rules.saturating
    )


def _activation_params(
    placement: Placement, table: CalibrationTable, rules: QdqRules, settings: QuantizeSettings
) -> dict[str, QuantParams]:
    """Scale and zero point of each tensor; ops that only move values keep those of their input."""
    params: dict[str, QuantParams] = {}
    for name in placement.tensors:
        chosen = table.range_of(placement.source[name], settings.calibrator)
        low, high = chosen.low, chosen.high
        if rules.activation_symmetric:
            low, high = -chosen.magnitude, chosen.magnitude
        params[name] = activation_params(
            low, high, rules.activation_dtype, symmetric=rules.activation_symmetric
        )
    return params


def _quantized(
    layer: Layer,
    params: Mapping[str, QuantParams],
    table: CalibrationTable,
    rules: QdqRules,
    settings: QuantizeSettings,
    *,
    saturating: bool,
) -> QuantizedLayer:
    value = layer.node.inputs[0]
    assert value is not None
    name = value_name(value)
    stats = table.tensors[name]
    input_scale = params[name].scale
    mean, energy = stats.channel_mean, stats.channel_square
    known = mean.size > 0
    correct = settings.bias_correction and known and layer.takes_bias
    if correct:
        # The mean error goes into the bias, so only what varies around it counts.
        energy = np.maximum(energy - np.square(mean), 0.0)
    weight = quantize_weight(
        layer,
        per_channel=rules.weight_granularity == "per_channel",
        least_scales=(
            least_bias_scale(layer.bias, input_scale)
            if rules.bias == "int32" and layer.bias is not None
            else None
        ),
        energy=energy if known else None,
        saturating=saturating,
    )
    bias = corrected_bias(layer, weight, mean, stats.shape) if correct else layer.bias
    return QuantizedLayer(layer, weight, bias, input_scale)
