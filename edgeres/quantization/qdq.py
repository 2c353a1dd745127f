"""Writes Q/DQ into an FP32 graph: activations, weights and biases, as the placement asks.

Weights are stored as INT8 behind a DequantizeLinear alone, a quarter of the float file. Names are
made from the names in the FP32 model, so equal inputs give equal bytes and every Q/DQ node can be
traced to its tensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeres.backends.base import QdqRules
from edgeres.graph.layers import (
    Layer,
    constant,
    consumers,
    only_rectified,
    value_name,
)
from edgeres.quantization.placement import Placement
from edgeres.quantization.scales import BIAS_LIMIT, QuantParams, quantize_bias
from edgeres.quantization.weights import QuantizedWeight

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
_SELF_QUANTIZED = frozenset({"Conv", "ConvTranspose", "Gemm"})


@dataclass(frozen=True)
class QuantizedLayer:
    """A layer's INT8 weight and the bias that goes with it (``None`` where the op takes none)."""

    layer: Layer
    weight: QuantizedWeight
    bias: NDArray[np.float32] | None
    input_scale: float


def insert_activations(
    graph: ir.Graph,
    placement: Placement,
    params: Mapping[str, QuantParams],
    *,
    pair_per_reader: bool = False,
) -> None:
    """Puts a Q/DQ pair on each tensor of the placement and moves its readers behind it.

    Args:
        graph: Changed in place.
        placement: Of this very graph.
        params: Scale and zero point by tensor name.
        pair_per_reader: Give every reader a pair of its own, with its own constants (nothing then
            merges the pairs again), instead of one pair for all.
    """
    values = {value_name(v): v for v in (*graph.inputs, *_outputs(graph)) if v.name}
    for name, readers in placement.readers.items():
        groups = [[reader] for reader in readers] if pair_per_reader else [list(readers)]
        for number, group in enumerate(groups):
            label = f"{name}.{number}" if number else name
            dequantized = _insert_pair(graph, values[name], params[name], label)
            for node, index in group:
                node.replace_input_with(index, dequantized)


def _insert_pair(graph: ir.Graph, value: ir.Value, params: QuantParams, label: str) -> ir.Value:
    """Adds one Q/DQ pair behind a tensor and gives the dequantized tensor."""
    scale = add_initializer(graph, f"{label}_scale", np.float32(params.scale))
    zero = add_initializer(
        graph, f"{label}_zero_point", np.dtype(params.dtype).type(params.zero_point)
    )
    quantize = _node(QUANTIZE, [value, scale, zero], label)
    dequantize = _node(DEQUANTIZE, [quantize.outputs[0], scale, zero], label)
    dequantize.outputs[0].type, dequantize.outputs[0].shape = value.type, value.shape
    quantize.outputs[0].type = ir.TensorType(ir.DataType[params.dtype.upper()])
    quantize.outputs[0].shape = value.shape
    producer = value.producer()
    if producer is None:
        graph.insert_before(graph[0], [quantize, dequantize])
    else:
        graph.insert_after(producer, [quantize, dequantize])
    return dequantize.outputs[0]


def insert_layer(graph: ir.Graph, item: QuantizedLayer, rules: QdqRules) -> None:
    """Replaces a layer's weight (and bias, where the rules quantize it) by its INT8 form.

    Args:
        graph: Changed in place.
        item: The layer of this very graph and what it becomes.
        rules: Whether the bias is int32 or float.
    """
    layer, weight = item.layer, item.weight
    per_channel = weight.scales.size > 1 or layer.weight.shape[0] == 1
    scales = weight.scales if per_channel else weight.scales.reshape(())
    dequantize = _constant(
        graph, f"{layer.name}.weight", layer.stored(weight.values), scales, axis=layer.channel_axis
    )
    graph.insert_before(layer.node, dequantize)
    layer.node.replace_input_with(1, dequantize.outputs[0])
    if item.bias is None:
        return
    if rules.bias == "int32":
        channel_scales = _channel_scales(item, item.bias)
        integers = quantize_bias(item.bias, item.input_scale, channel_scales)
        bias_scales = (np.float32(item.input_scale) * channel_scales).astype(np.float32)
        node = _constant(graph, f"{layer.name}.bias", integers, bias_scales, axis=0)
        graph.insert_before(layer.node, node)
        bias = node.outputs[0]
    else:
        bias = add_initializer(graph, f"{layer.name}.bias_float", item.bias.astype(np.float32))
    if len(layer.node.inputs) < 3:
        layer.node.resize_inputs(3)
    layer.node.replace_input_with(2, bias)


def rewrite_layer(graph: ir.Graph, item: QuantizedLayer, rules: QdqRules) -> None:
    """Writes other integers and another bias into a layer that :func:`insert_layer` has made.

    Args:
        graph: The Q/DQ graph, changed in place.
        item: What the layer becomes; its scales must be those that it has.
        rules: Whether the bias is int32 or float.
    """
    name = item.layer.name
    _rewrite(graph, f"{name}.weight_quantized", item.layer.stored(item.weight.values))
    if item.bias is None:
        return
    if rules.bias == "int32":
        integers = quantize_bias(item.bias, item.input_scale, _channel_scales(item, item.bias))
        _rewrite(graph, f"{name}.bias_quantized", integers)
    else:
        _rewrite(graph, f"{name}.bias_float", item.bias.astype(np.float32))


def _rewrite(graph: ir.Graph, name: str, content: NDArray[np.generic]) -> None:
    graph.initializers[name].const_value = ir.tensor(content, name=name)


def _channel_scales(item: QuantizedLayer, bias: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.broadcast_to(item.weight.scales, bias.shape).astype(np.float32)


def insert_barriers(graph: ir.Graph, rules: QdqRules) -> None:
    """Puts a MaxPool of one pixel, which changes nothing, behind images that engines mishandle.

    OpenVINO 2026.4 moves int8 Q/DQ through a Concat into the layers before it and loses the scale
    on the way (values come out rounded to whole numbers); it moves nothing through this pool into
    a Concat, and both engines run it in INT8. Where a Mul has a factor for each channel and not all
    of them are positive, it takes the first one for all channels if a QuantizeLinear follows.
    """
    for node in list(graph):
        joined = node.outputs[0]
        rank = None if joined.shape is None else len(joined.shape)
        needed = (
            rules.concat_barrier and rules.activation_dtype == "int8" and node.op_type == "Concat"
        ) or (rules.factor_barrier and _has_signed_factors(node))
        if not needed or rank != 4 or joined.is_graph_output():
            continue
        output = ir.Value(name=f"{joined.name}_barrier", shape=joined.shape, type=joined.type)
        ir.convenience.replace_all_uses_with(joined, output)
        barrier = ir.node(
            "MaxPool", [joined], {"kernel_shape": [1, 1]}, outputs=[output],
            name=f"{node.name}_barrier",
        )  # fmt: skip
        graph.insert_after(node, barrier)


def _has_signed_factors(node: ir.Node) -> bool:
    factors = [constant(value) for value in node.inputs] if node.op_type in ("Mul", "Div") else []
    return any(
        each is not None and each.size > 1 and bool((each.astype(np.float64) <= 0).any())
        for each in factors
    )


def guard_float_layers(graph: ir.Graph) -> None:
    """Writes the bias of each float layer between Q/DQ as int32 behind a DequantizeLinear.

    ONNX Runtime 1.32 makes INT8 of such a layer (one scale for the whole weight, pairs that
    saturate) unless its bias is computed. The bias keeps 30 bits.
    """
    for node in list(graph):
        if node.op_type not in _SELF_QUANTIZED or not _stands_between(node):
            continue
        weight = constant(node.inputs[1])
        bias = constant(node.inputs[2]) if len(node.inputs) > 2 else None
        if weight is None or weight.dtype != np.float32 or (bias is not None and bias.ndim != 1):
            continue
        if bias is None:
            bias = np.zeros(_output_channels(node, weight.shape), np.float32)
        peak = float(np.abs(bias).max(initial=0.0))
        scale = np.float32(max(peak / BIAS_LIMIT, float(np.finfo(np.float32).tiny)))
        stored = np.rint(bias.astype(np.float64) / np.float64(scale)).astype(np.int32)
        guard = _constant(graph, f"{node.name}.bias", stored, np.asarray(scale), axis=0)
        graph.insert_before(node, guard)
        if len(node.inputs) < 3:
            node.resize_inputs(3)
        node.replace_input_with(2, guard.outputs[0])


def _stands_between(node: ir.Node) -> bool:
    before = None if node.inputs[0] is None else node.inputs[0].producer()
    if before is None or before.op_type != DEQUANTIZE:
        return False
    value = node.outputs[0]
    while only_rectified(value):
        value = consumers(value)[0][0].outputs[0]
    readers = consumers(value)
    return len(readers) == 1 and readers[0][0].op_type == QUANTIZE


def _output_channels(node: ir.Node, shape: tuple[int, ...]) -> int:
    if node.op_type == "ConvTranspose":
        return shape[1] * node.attributes.get_int("group", 1)
    turned = node.op_type == "Gemm" and node.attributes.get_int("transB", 0) == 0
    return shape[1] if turned else shape[0]


def drop_unused(graph: ir.Graph) -> None:
    """Removes initializers that nothing reads any more."""
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]


def _constant(
    graph: ir.Graph,
    name: str,
    values: NDArray[np.generic],
    scales: NDArray[np.float32],
    *,
    axis: int,
) -> ir.Node:
    """An integer initializer behind a DequantizeLinear with zero point 0."""
    stored = add_initializer(graph, f"{name}_quantized", values)
    scale = add_initializer(graph, f"{name}_scale", scales)
    zero = add_initializer(graph, f"{name}_zero_point", np.zeros(scales.shape, values.dtype))
    node = _node(DEQUANTIZE, [stored, scale, zero], name, axis=axis if scales.ndim else None)
    node.outputs[0].dtype, node.outputs[0].shape = ir.DataType.FLOAT, ir.Shape(values.shape)
    return node


def _node(op: str, inputs: list[ir.Value], name: str, *, axis: int | None = None) -> ir.Node:
    suffix = "quantized" if op == QUANTIZE else "dequantized"
    output = ir.Value(name=f"{name}_{suffix}")
    attributes = {} if axis is None else {"axis": axis}
    return ir.node(op, inputs, attributes, outputs=[output], name=f"{name}_{op}")


def add_initializer(
    graph: ir.Graph, name: str, content: NDArray[np.generic] | np.generic
) -> ir.Value:
    """A new constant of the graph."""
    tensor = ir.Tensor(np.asarray(content), name=name)  # `ir.tensor` asks for protocols: slow
    value = ir.Value(
        name=name,
        const_value=tensor,
        shape=ir.Shape(np.shape(content)),
        type=ir.TensorType(tensor.dtype),
    )
    graph.register_initializer(value)
    return value


def _outputs(graph: ir.Graph) -> list[ir.Value]:
    return [value for node in graph for value in node.outputs]
