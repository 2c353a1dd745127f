"""Lint of the weights and biases in a Q/DQ file; the rules are listed in ``lint``."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeres.backends.base import QdqRules
from edgeres.graph.layers import constant, node_name
from edgeres.quantization.qdq_view import DQ, Finding, scale_of
from edgeres.quantization.stored_weight import called, integer_scales, stored_weight

_LOWEST = -128


def layer_findings(node: ir.Node, rules: QdqRules) -> Iterator[Finding]:
    """Findings about the weight and the bias of one Conv, Gemm or MatMul."""
    name = called(node)
    source = node.inputs[1]
    producer = None if source is None else source.producer()
    if producer is None or producer.op_type != DQ:
        yield Finding(
            "float-input", name, "the weight is float, so the layer runs in float. Quantize it."
        )
        return
    stored = constant(producer.inputs[0])
    if stored is None or stored.dtype != np.int8:
        kind = "quantized while the engine runs" if stored is None else str(stored.dtype)
        yield Finding("weight-dtype", name, f"the weight is {kind}; store it as int8 behind a DQ.")
        return
    yield from _weight_scale(node, producer, stored, rules)
    if rules.saturating:
        yield from _saturation(node)
    yield from _lowest_weight(node, rules)
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        yield from _bias(node, producer, rules)


def _weight_scale(
    node: ir.Node, producer: ir.Node, stored: NDArray[np.generic], rules: QdqRules
) -> Iterator[Finding]:
    name, scale = node_name(node), scale_of(producer)
    rows_first = node.op_type == "Conv" or node.attributes.get_int("transB", 0) == 1
    axis = 0 if rows_first else 1
    scaled_axis = producer.attributes.get_int("axis", 1) % max(stored.ndim, 1)
    if scale.ndim and scale.size > 1 and scaled_axis != axis:
        yield Finding(
            "weight-axis",
            name,
            f"the weight is scaled along axis {scaled_axis}; the output channels are axis {axis}. "
            "Engines then run the layer in float.",
        )
    per_channel = scale.ndim > 0
    if per_channel != (rules.weight_granularity == "per_channel"):
        yield Finding(
            "weight-granularity",
            name,
            f"{rules.name} takes {rules.weight_granularity.replace('_', ' ')} scales, "
            f"the weight has {'one per channel' if per_channel else 'one'}.",
        )


def integer_layer_findings(node: ir.Node, rules: QdqRules) -> Iterator[Finding]:
    """Findings about one layer that is written with an integer operator."""
    for scale in integer_scales(node):
        if not np.isfinite(scale).all() or (scale < np.finfo(np.float32).tiny).any():
            text = f"a scale of {scale.min():.3g} is not positive, or denormal. Calibrate again."
            yield Finding("scale", called(node), text, "wrong")
    if rules.saturating:
        yield from _saturation(node)
    yield from _lowest_weight(node, rules)


def _lowest_weight(node: ir.Node, rules: QdqRules) -> Iterator[Finding]:
    weight = stored_weight(node)
    if weight is None or weight.values.dtype != np.int8:
        return
    count = int((weight.values == _LOWEST).sum())
    if count:
        here = "this device adds" if rules.wrong_lowest_weight else "Arm CPUs may add"
        yield Finding(
            "lowest-weight",
            called(node),
            f"{count} of {weight.values.size} weights are -128, whose products {here} wrongly "
            "without a word. Quantize with weights of -127 to 127.",
            "wrong" if rules.wrong_lowest_weight else "risk",
        )


def _saturation(node: ir.Node) -> Iterator[Finding]:
    weight = stored_weight(node)
    proof = None if weight is None else weight.saturation
    if proof is not None and not proof.safe:
        yield Finding(
            "saturation",
            called(node),
            f"pairs of weights add up to {proof.lowest} and {proof.highest}; beyond 128 their "
            "products can leave int16 on this device and are clipped without a word. Quantize with "
            "saturation_safe.",
            "wrong",
        )


def _bias(node: ir.Node, weight: ir.Node, rules: QdqRules) -> Iterator[Finding]:
    name = node_name(node)
    value = node.inputs[2]
    assert value is not None
    producer = value.producer()
    quantized = producer is not None and producer.op_type == DQ
    if quantized != (rules.bias == "int32"):
        wants = "an int32" if rules.bias == "int32" else "a float"
        bias_kind = "quantized" if quantized else "float"
        yield Finding(
            "bias",
            name,
            f"{rules.name} takes {wants} bias, this one is {bias_kind}.",
        )
        return
    source = node.inputs[0].producer() if node.inputs[0] is not None else None
    if not quantized or producer is None or source is None or source.op_type != DQ:
        return
    bias_scale = np.ravel(scale_of(source))[0] * scale_of(weight).astype(np.float64)
    stored = scale_of(producer).astype(np.float64)
    if not np.allclose(np.broadcast_to(bias_scale, stored.shape), stored, rtol=1e-4, atol=0.0):
        yield Finding(
            "bias",
            name,
            "the scale of the bias is not that of the input times that of the weight.",
        )
