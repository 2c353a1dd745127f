"""Activations that an engine computes inside the INT8 layer in front of them.

Such a node is no float arithmetic of its own: the layer applies it to its sums before it writes
them, as it does with a Relu. Where the sums are read by something else, too, they are written and
the activation runs by itself.
"""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

from edgeres.backends.base import QdqRules
from edgeres.graph.layers import RECTIFIERS, WEIGHTED, consumers, is_activation

_HOSTS = WEIGHTED | {"Add"}


def runs_inside(node: ir.Node, rules: QdqRules, quantized: Collection[ir.Node]) -> bool:
    """Whether a node becomes part of an INT8 layer before it.

    Args:
        node: One that takes no Q/DQ of its own.
        rules: Name the operators that the engine takes in, ``epilogues``.
        quantized: Nodes that become INT8.
    """
    sources = [value for value in node.inputs if is_activation(value)]
    if node.op_type == "Mul" and len(sources) == 2:  # x * sigmoid(x)
        gates = [value.producer() for value in sources if value is not None]
        for gate, other in zip(gates, reversed(sources), strict=True):
            if gate is not None and gate.op_type in rules.epilogues and gate.inputs[0] is other:
                return _only_read_by(other, {gate, node}) and is_sum(other, quantized)
        return False
    if node.op_type not in rules.epilogues or len(sources) != 1:
        return False
    readers = {reader for reader, _ in consumers(node.outputs[0])}
    gated = {reader for reader in readers if reader.op_type == "Mul"}
    return _only_read_by(sources[0], {node} | gated) and is_sum(sources[0], quantized)


def is_sum(value: ir.Value | None, quantized: Collection[ir.Node]) -> bool:
    """Whether an INT8 layer gives a tensor, with a Relu or a Clip behind it at most."""
    node = None if value is None else value.producer()
    while node is not None and node.op_type in RECTIFIERS:
        before = node.inputs[0]
        node = None if before is None else before.producer()
    return node is not None and node.op_type in _HOSTS and node in quantized


def _only_read_by(value: ir.Value | None, nodes: Collection[ir.Node]) -> bool:
    return value is not None and all(reader in nodes for reader, _ in consumers(value))
