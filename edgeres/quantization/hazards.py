"""Places in a quantized file that some engine is known to compute otherwise than the file says.

Whether this engine does so on this device depends on its version, on the CPU and on what stands
around the place, so these are suspicions: :mod:`.engine_check` lets the engine decide. edgeres
itself writes none of them for an engine that does.

Rules:
    pool              an average pool with padding or ``ceil_mode``: engines pad with the integer 0
                      and not with the zero point, or count other pixels
    lowest-weight     weights of -128, whose products some ARM kernels add up wrongly
    bias-range        a bias that, with the products, does not fit an INT32 accumulator
    sixteen-bit       activations of 16 bits: some engines leave their quantization out, and the
                      limits that it sets
    shared-scale      a Concat of tensors with unlike scales, of which an engine may keep one
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from edgeres.graph.layers import consumers
from edgeres.quantization.qdq_view import DQ, Finding, Q, scale_of, zero_point_of
from edgeres.quantization.stored_weight import called, stored_weight

_POOLS = frozenset({"AveragePool", "QLinearAveragePool"})
_LOWEST = -128
_INT32 = 2**31 - 1
_LARGEST_ACTIVATION = 255


def hazards(graph: ir.Graph) -> tuple[tuple[ir.Node, Finding], ...]:
    """All suspicious nodes of a quantized graph, in the order of its nodes."""
    return (
        *((node, finding) for node in graph for finding in _of(node)),
        *_sixteen_bits(graph),
    )


def _sixteen_bits(graph: ir.Graph) -> Iterator[tuple[ir.Node, Finding]]:
    """The first op of each kind behind which values of 16 bits are stored; the rest is alike."""
    kinds: set[tuple[str, str]] = set()
    for reader in graph:
        value = reader.inputs[0] if reader.op_type == Q else None
        node = None if value is None else value.producer()
        if node is None or node.op_type in (Q, DQ):
            continue
        kind = zero_point_of(reader).dtype
        if kind.itemsize == 2 and (node.op_type, kind.name) not in kinds:
            kinds.add((node.op_type, kind.name))
            text = f"{kind.name} behind a {node.op_type}, as it may be elsewhere"
            yield node, Finding("sixteen-bit", called(node), text, "risk")


def _of(node: ir.Node) -> Iterator[Finding]:
    if node.op_type in _POOLS and _is_quantized(node):
        borders = _borders(node)
        if borders:
            yield Finding("pool", called(node), f"an INT8 {node.op_type} with {borders}", "risk")
    if node.op_type == "Concat" and _unlike(node):
        yield Finding("shared-scale", called(node), "its inputs have unlike scales", "risk")
    weight = stored_weight(node)
    if weight is None:
        return
    if weight.values.dtype == np.int8 and (weight.values == _LOWEST).any():
        count = int((weight.values == _LOWEST).sum())
        yield Finding("lowest-weight", called(node), f"{count} weights of -128", "risk")
    if weight.bias is not None:
        products = np.abs(weight.values.astype(np.int64)).sum(axis=1) * _LARGEST_ACTIVATION
        reach = np.abs(weight.bias) + products
        if (reach > _INT32).any():
            text = f"with its bias a sum can reach {reach.max():.3g}, INT32 ends at {_INT32:.3g}"
            yield Finding("bias-range", called(node), text, "risk")


def _is_quantized(node: ir.Node) -> bool:
    return node.op_type != "AveragePool" or bool(_dequantizers(node))


def _dequantizers(node: ir.Node) -> list[ir.Node]:
    producers = [value.producer() for value in node.inputs if value is not None]
    return [each for each in producers if each is not None and each.op_type == DQ]


def _borders(node: ir.Node) -> str:
    """What an average pool does at its borders, in words; empty where it has none."""
    padded = any(node.attributes.get_ints("pads", ()))
    automatic = node.attributes.get("auto_pad")
    padded = padded or (automatic is not None and automatic.as_string() not in ("NOTSET", "VALID"))
    properties = {
        "padding": padded,
        "count_include_pad": node.attributes.get_int("count_include_pad", 0) == 1,
        "ceil_mode": node.attributes.get_int("ceil_mode", 0) == 1,
    }
    if not (properties["padding"] or properties["ceil_mode"]):
        return ""
    return ", ".join(name for name, there in properties.items() if there)


def _unlike(node: ir.Node) -> bool:
    dequantizers = _dequantizers(node)
    quantizers = [reader for reader, _ in consumers(node.outputs[0]) if reader.op_type == Q]
    pairs = {
        (float(np.ravel(scale_of(each))[0]), int(np.ravel(zero_point_of(each))[0]))
        for each in (*dequantizers, *quantizers)
    }
    return len(dequantizers) > 1 and len(pairs) > 1
