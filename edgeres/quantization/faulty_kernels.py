"""Nodes whose INT8 kernel an engine is known to get wrong: they stay float.

The rule sets say which faults an engine has; ``docs/quantization.md`` tells how they were found.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from edgeres.backends.base import QdqRules
from edgeres.graph.layers import WEIGHTED, Layer, constant, consumers, layer_of, only_moves

_BINARY = frozenset({"Add", "Sub", "Mul", "Div"})
_GROUP_VECTOR = 8


def fault_of(node: ir.Node, rules: QdqRules) -> str | None:
    """Why a node must stay float under a rule set; ``None`` where its kernel is right."""
    layer = layer_of(node)
    if layer is not None and layer.groups in rules.wrong_groups and _multiplies_channels(layer):
        return f"{rules.name} gives wrong sums for {layer.groups} groups of one channel"
    if layer is not None and rules.wrong_group_epilogue and _is_wide_group(layer):
        op = _channel_op_behind(node)
        if op is not None:
            return f"{rules.name} takes a wrong channel of the {op} behind this grouped Conv"
    if node.op_type == "AveragePool" and is_small_pool(node, rules):
        return f"{rules.name} scales twice in an AveragePool of under {rules.least_pool} values"
    return None


def is_small_pool(node: ir.Node, rules: QdqRules) -> bool:
    """True for an AveragePool that is too small for the engine's INT8 kernel.

    Along each axis the smaller of image and result counts; a free axis counts as large.
    """
    if node.op_type != "AveragePool":
        return False
    shapes = [None if value is None else value.shape for value in (node.inputs[0], node.outputs[0])]
    if shapes[0] is None or shapes[1] is None:
        return False
    values = 1
    for before, behind in zip(*(tuple(shape)[1:] for shape in shapes if shape), strict=True):
        if not (isinstance(before, int) and isinstance(behind, int)):
            return False
        values *= min(before, behind)
    return values < rules.least_pool


def read_in_float(graph: ir.Graph, rules: QdqRules) -> frozenset[ir.Node]:
    """What may not read Q/DQ: small pools, a ``Pad`` with a number that the engine refuses there.

    With them all that lies between them and the INT8 op before: an engine carries the
    DequantizeLinear in front of an activation through it.
    """
    float_nodes: set[ir.Node] = set()
    waiting = [node for node in graph if is_small_pool(node, rules) or _is_filled(node, rules)]
    while waiting:
        node = waiting.pop()
        if node not in float_nodes:
            float_nodes.add(node)
            waiting.extend(each for each in _before(node) if _lets_through(each, rules))
    return frozenset(float_nodes)


def _is_filled(node: ir.Node, rules: QdqRules) -> bool:
    return rules.refuses_pad_values and node.op_type == "Pad" and not only_moves(node)


def _before(node: ir.Node) -> Iterator[ir.Node]:
    for value in node.inputs:
        producer = None if value is None else value.producer()
        if producer is not None:
            yield producer


def _lets_through(node: ir.Node, rules: QdqRules) -> bool:
    return only_moves(node) or node.op_type not in rules.ops


def _multiplies_channels(layer: Layer) -> bool:
    """True where each group makes several channels of one."""
    rows, columns = layer.weight.shape
    return bool(columns == int(np.prod(layer.kernel)) and rows > layer.groups)


def _is_wide_group(layer: Layer) -> bool:
    return layer.groups > 1 and layer.weight.shape[0] // layer.groups > _GROUP_VECTOR


def _channel_op_behind(node: ir.Node) -> str | None:
    """The op with a constant for each channel that follows, with activations between at most."""
    value = node.outputs[0]
    while len(uses := consumers(value)) == 1:
        reader, _ = uses[0]
        if reader.op_type in WEIGHTED or len(reader.outputs) != 1:
            return None
        sizes = [np.size(each) for each in map(constant, reader.inputs) if each is not None]
        if reader.op_type in _BINARY | {"PRelu"} and max(sizes, default=1) > 1:
            return reader.op_type
        value = reader.outputs[0]
    return None
