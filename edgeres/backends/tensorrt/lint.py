"""Finds, before a build, what TensorRT would refuse or silently run in float.

TensorRT's parser refuses some Q/DQ with a message about its own source, accepts others with
another meaning, and crashes on one. Each rule here was planted in a ResNet and tried on TensorRT
for RTX 1.7.1; the comment behind a rule says what happened. The rules hold for any file, not only
for what edgeres quantizes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from edgeres.backends.tensorrt.graph import DQ, Graph, Q, attribute
from edgeres.errors import ModelError

# ONNX operators that compute in integers themselves; TensorRT knows only Q/DQ around float ones.
_INTEGER_OPS = {
    "QLinearConv",
    "QLinearMatMul",
    "ConvInteger",
    "MatMulInteger",
    "DynamicQuantizeLinear",
}
_DOMAINS = {"", "ai.onnx", "trt.plugins"}


@dataclass(frozen=True)
class Finding:
    """One thing wrong with a file.

    Attributes:
        rule: Short stable name of the rule.
        node: Name of the ONNX node.
        message: One line: what is there and what TensorRT makes of it.
        fatal: True where TensorRT refuses the file, crashes, or changes what it computes or in
            which precision; False where the engine is right but slower than it could be.
    """

    rule: str
    node: str
    message: str
    fatal: bool = True


def lint(graph: Graph) -> list[Finding]:
    """All findings in a file, in the order of its nodes."""
    findings: list[Finding] = []
    for node in graph.model.graph.node:
        if node.op_type in {Q, DQ}:
            findings += _quantizer(graph, node)
        elif node.op_type in {"Conv", "ConvTranspose", "Gemm", "MatMul"}:
            findings += _product(graph, node)
        elif node.op_type == "Relu":
            findings += _relu(graph, node)
        elif node.op_type in _INTEGER_OPS or node.domain not in _DOMAINS:
            # "No importer registered for op".
            findings.append(Finding("operator", _name(node), _operator(node)))
    return findings


def refuse_fatal(findings: Sequence[Finding], where: str) -> None:
    """Stops a build on the first fatal finding.

    Raises:
        ModelError: There is a fatal finding; the message names the node and counts the others.
    """
    fatal = [finding for finding in findings if finding.fatal]
    if fatal:
        more = f" ({len(fatal) - 1} more like it)" if len(fatal) > 1 else ""
        raise ModelError(
            f"{where}: {fatal[0].message}{more}.",
            hint="Quantize it with `edgeres quantize --target tensorrt`, or see docs/tensorrt.md.",
        )


def _name(node: onnx.NodeProto) -> str:
    return node.name or f"{node.op_type} of {node.output[0] if node.output else 'nothing'}"


def _operator(node: onnx.NodeProto) -> str:
    kind = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
    return f"{_name(node)}: TensorRT has no operator {kind}; it takes QuantizeLinear and float ops"


def _quantizer(graph: Graph, node: onnx.NodeProto) -> Iterator[Finding]:
    """Rules about one QuantizeLinear or DequantizeLinear."""
    name = _name(node)
    scale = graph.constants.get(node.input[1]) if len(node.input) > 1 else None
    if scale is None:
        # Segmentation fault in the parser.
        yield Finding("dynamic-scale", name, f"{name}: the scale is computed, not a constant")
        return
    yield from _scale(name, node, scale)
    yield from _integers(graph, name, node)
    if attribute(node, "block_size", 0) > 0:
        yield Finding("blocked", name, f"{name}: one scale for each block; INT8 takes none")
    if not _of_weights(graph, node):
        yield from _activation(graph, name, node, scale)


def _scale(name: str, node: onnx.NodeProto, scale: np.ndarray) -> Iterator[Finding]:
    # bfloat16 is no floating type of numpy's own.
    if not (np.issubdtype(scale.dtype, np.floating) or scale.dtype.name == "bfloat16"):
        yield Finding("scale-not-positive", name, f"{name}: the scale is {scale.dtype}, not float")
        return
    if scale.size == 0:
        yield Finding("scale-not-positive", name, f"{name}: the scale is empty")
        return
    values = np.atleast_1d(scale).astype(np.float64).ravel()
    # Zero, negative and NaN: "Scale coefficients must all be positive". Infinity: built, outputs
    # are NaN. FP16 scales that underflowed are zeros here.
    bad = np.flatnonzero(~(np.isfinite(values) & (values > 0)))
    if bad.size:
        where = f" of channel {bad[0]}" if values.size > 1 else ""
        half = " (FP16 cannot hold anything below 2**-24)" if scale.dtype == np.float16 else ""
        message = f"{name}: scale{where} is {values[bad[0]]:g}, must be positive{half}"
        yield Finding("scale-not-positive", name, message)


def _integers(graph: Graph, name: str, node: onnx.NodeProto) -> Iterator[Finding]:
    """Zero points and integer types."""
    zero_point = graph.constants.get(node.input[2]) if len(node.input) > 2 else None
    if len(node.input) > 2 and node.input[2] and zero_point is None:
        yield Finding("dynamic-scale", name, f"{name}: the zero point is computed, not a constant")
        return
    kind = zero_point.dtype if zero_point is not None else _implied_type(graph, node)
    if kind == np.int32:
        # "input has type Int32 but must have type FP8, FP4, Int4, Int8, or UInt8".
        message = f"{name}: dequantizes INT32 (a quantized bias); TensorRT wants a float bias"
        yield Finding("int32-bias", name, message)
    elif kind == np.uint8:
        # With zero point 0: built as INT8 with a warning, so that values above 127 are clipped.
        message = f"{name}: uint8; TensorRT would read it as int8 and clip above 127"
        yield Finding("uint8", name, message)
    elif kind != np.int8:
        yield Finding("not-int8", name, f"{name}: {kind}; TensorRT's INT8 needs int8")
    if zero_point is not None and kind != np.int32:
        values = np.atleast_1d(zero_point).ravel()
        bad = np.flatnonzero(values)
        if bad.size:
            # "Non-zero zero point is not supported".
            where = f" of channel {bad[0]}" if values.size > 1 else ""
            message = f"{name}: zero point{where} is {int(values[bad[0]])}, must be 0 (symmetric)"
            yield Finding("zero-point", name, message)


def _implied_type(graph: Graph, node: onnx.NodeProto) -> np.dtype[np.generic]:
    """Integer type where no zero point tells it: that of the data, or ONNX's default, uint8."""
    if node.op_type == DQ:
        data = graph.constants.get(node.input[0])
        producer = graph.producers.get(node.input[0])
        if data is not None:
            return data.dtype
        if producer is not None and producer.op_type == Q and len(producer.input) > 2:
            zero_point = graph.constants.get(producer.input[2])
            if zero_point is not None:
                return zero_point.dtype
    elif attribute(node, "output_dtype", 0):
        return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(attribute(node, "output_dtype", 0)))
    return np.dtype(np.uint8)


def _of_weights(graph: Graph, node: onnx.NodeProto) -> bool:
    """True if the node quantizes or dequantizes a constant."""
    source = node.input[0]
    producer = graph.producers.get(source)
    if producer is not None and producer.op_type == Q:
        source = producer.input[0]
    return source in graph.constants


def _activation(
    graph: Graph, name: str, node: onnx.NodeProto, scale: np.ndarray
) -> Iterator[Finding]:
    if scale.ndim:
        # Even shape [1] counts as one scale for each channel: the convolution behind it is float.
        message = (
            f"{name}: activation scale of shape {list(scale.shape)}; must be a scalar, "
            "or TensorRT runs the layer in float"
        )
        yield Finding("per-channel-activation", name, message)
    producer = graph.producers.get(node.input[0])
    if node.op_type == DQ and producer is not None and producer.op_type == Q:
        quantizing = graph.constants.get(producer.input[1])
        if quantizing is not None and not np.array_equal(quantizing, scale, equal_nan=True):
            # Built as written: everything is rescaled by the quotient.
            message = f"{name}: dequantizes with another scale than {_name(producer)} quantized"
            yield Finding("scale-mismatch", name, message, fatal=False)


def _product(graph: Graph, node: onnx.NodeProto) -> Iterator[Finding]:
    """Rules about one convolution or matrix product and the DQ in front of it."""
    name = _name(node)
    if len(node.input) < 2:
        yield Finding("operator", name, f"{name}: {node.op_type} without weights")
        return
    dequantizers = [graph.producers.get(tensor) for tensor in node.input[:2]]
    quantized = [item is not None and item.op_type == DQ for item in dequantizers]
    if any(quantized) and not all(quantized):
        float_input = "data" if not quantized[0] else "weights"
        # Built as a float layer that dequantizes first.
        message = f"{name}: its {float_input} has no Q/DQ, so TensorRT runs it in float"
        yield Finding("half-quantized", name, message, fatal=False)
    weights = dequantizers[1]
    if weights is None or weights.op_type != DQ or not _of_weights(graph, weights):
        return
    scale = graph.constants.get(weights.input[1])
    if scale is None or scale.size == 1:
        return
    axis = attribute(weights, "axis", 1)
    axis = axis + _weight_rank(graph, weights) if axis < 0 else axis
    wanted = _output_axis(node)
    if axis != wanted:
        # Silently a float layer.
        message = (
            f"{_name(weights)}: weight scales run along axis {axis}, {node.op_type} {name} needs "
            f"axis {wanted}, or TensorRT runs it in float"
        )
        yield Finding("weight-axis", name, message)


def _weight_rank(graph: Graph, dequantizer: onnx.NodeProto) -> int:
    """Dimensions of quantized weights: 3, 4 or 5 for a Conv over 1, 2 or 3 axes."""
    producer = graph.producers.get(dequantizer.input[0])
    source = producer.input[0] if producer is not None and producer.op_type == Q else None
    return graph.constants[source or dequantizer.input[0]].ndim


def _output_axis(node: onnx.NodeProto) -> int:
    """Axis of the output channels in the weights."""
    if node.op_type == "Gemm":
        return 0 if attribute(node, "transB", 0) else 1
    return 0 if node.op_type == "Conv" else 1


def _relu(graph: Graph, node: onnx.NodeProto) -> Iterator[Finding]:
    before = graph.producers.get(node.input[0]) if node.input else None
    if before is None or before.op_type != DQ:
        return
    quantizer = graph.producers.get(before.input[0]) if before.input else None
    source = graph.producers.get(quantizer.input[0]) if quantizer is not None else None
    if source is not None and source.op_type == "Conv":
        name = _name(node)
        message = f"{name}: Q/DQ stands between it and {_name(source)}, so they cannot fuse"
        yield Finding("quantized-before-relu", name, message, fatal=False)
