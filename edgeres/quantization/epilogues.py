"""Activations that an engine computes inside the INT8 layer in front of them.

Such a node is no float arithmetic of its own: the layer applies it to its sums before it writes
them, as it does with a Relu. Where the sums are read by something else, too, they are written and
the activation runs by itself.
"""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

from edgeres.backends.base import QdqRules
from edgeres.graph.layers import (
    RECTIFIERS,
    WEIGHTED,
    constant,
    consumers,
    is_activation,
    multiplies_activations,
)

_FACTORS = frozenset({"Mul", "Div"})
_HOSTS = WEIGHTED | {"Add"}
#: Steps from any node of a written-out Gelu to its Erf.
_GELU_REACH = 3


def runs_inside(node: ir.Node, rules: QdqRules, quantized: Collection[ir.Node]) -> bool:
    """Whether a node becomes part of an INT8 layer before it.

    Args:
        node: One that takes no Q/DQ of its own.
        rules: Name the operators that the engine takes in, ``epilogues``.
        quantized: Nodes that become INT8.
    """
    if "Gelu" in rules.epilogues and (gelu := _written_out_gelu(node)) is not None:
        source, parts = gelu
        return _only_read_by(source, parts) and is_sum(source, quantized)
    if node.op_type in _FACTORS & rules.epilogues and _scales_product(node, quantized):
        return True
    activations = rules.epilogues - _FACTORS
    sources = [value for value in node.inputs if is_activation(value)]
    if node.op_type == "Mul" and len(sources) == 2:  # x * sigmoid(x)
        gates = [value.producer() for value in sources if value is not None]
        for gate, other in zip(gates, reversed(sources), strict=True):
            if gate is not None and gate.op_type in activations and gate.inputs[0] is other:
                return _only_read_by(other, {gate, node}) and is_sum(other, quantized)
        return False
    if node.op_type not in activations or len(sources) != 1:
        return False
    readers = {reader for reader, _ in consumers(node.outputs[0])}
    gated = {reader for reader in readers if reader.op_type == "Mul"}
    return _only_read_by(sources[0], {node} | gated) and is_sum(sources[0], quantized)


def _scales_product(node: ir.Node, quantized: Collection[ir.Node]) -> bool:
    """Whether a node multiplies an INT8 product of two computed tensors by one number."""
    value = node.inputs[0] if is_activation(node.inputs[0]) else node.inputs[1]
    numbers = [known for each in node.inputs if (known := constant(each)) is not None]
    product = _maker(value)
    return (
        product is not None
        and [number.size for number in numbers] == [1]
        and multiplies_activations(product)
        and product in quantized
        and _only_read_by(value, {node})
    )


def added_inside(add: ir.Node, rules: QdqRules, quantized: Collection[ir.Node]) -> bool:
    """Whether an Add stands behind an activation that an INT8 layer computes, which adds it, too.

    Args:
        add: The Add.
        rules: As for :func:`runs_inside`.
        quantized: Nodes that become INT8.
    """
    makers = ((value, value.producer()) for value in add.inputs if value is not None)
    return any(
        maker is not None and _only_read_by(value, {add}) and runs_inside(maker, rules, quantized)
        for value, maker in makers
    )


def _written_out_gelu(node: ir.Node) -> tuple[ir.Value, set[ir.Node]] | None:
    """The input and the nodes of a ``Gelu`` in five nodes that a node is part of.

    Exporters write ``x * (1 + erf(x / sqrt(2))) * 0.5``, or halve ``x`` first.
    """
    around = {node}
    for _ in range(_GELU_REACH):
        around |= {near for each in around for near in (*_makers(each), *_readers(each))}
    for erf in (each for each in around if each.op_type == "Erf"):
        scaled = next((n for n in _makers(erf) if n.op_type in ("Div", "Mul")), None)
        source = None if scaled is None else next(filter(is_activation, scaled.inputs), None)
        if scaled is not None and source is not None:
            parts = _gelu_behind(source, scaled, erf)
            if node in parts:
                return source, parts
    return None


def _gelu_behind(source: ir.Value, scaled: ir.Node, erf: ir.Node) -> set[ir.Node]:
    """The nodes from an input to the end of a Gelu; empty where they make none."""
    shifted = _sole_reader(erf, "Add")
    product = None if shifted is None else _sole_reader(shifted, "Mul")
    if shifted is None or product is None:
        return set()
    other = next((v for v in product.inputs if v is not shifted.outputs[0]), None)
    half = _sole_reader(product, "Mul") if other is source else _maker(other)
    if half is None or half.op_type != "Mul" or (other is not source and source not in half.inputs):
        return set()
    return {scaled, erf, shifted, product, half}


def _sole_reader(node: ir.Node, op_type: str) -> ir.Node | None:
    readers = _readers(node)
    return readers[0] if [reader.op_type for reader in readers] == [op_type] else None


def _maker(value: ir.Value | None) -> ir.Node | None:
    return None if value is None else value.producer()


def _makers(node: ir.Node) -> list[ir.Node]:
    return [maker for value in node.inputs if (maker := _maker(value)) is not None]


def _readers(node: ir.Node) -> list[ir.Node]:
    return [reader for value in node.outputs for reader, _ in consumers(value)]


def is_sum(value: ir.Value | None, quantized: Collection[ir.Node]) -> bool:
    """Whether an INT8 layer gives a tensor, with a Relu or a Clip behind it at most."""
    node = None if value is None else value.producer()
    while node is not None and node.op_type in RECTIFIERS:
        before = node.inputs[0]
        node = None if before is None else before.producer()
    return node is not None and node.op_type in _HOSTS and node in quantized


def _only_read_by(value: ir.Value | None, nodes: Collection[ir.Node]) -> bool:
    return value is not None and all(reader in nodes for reader, _ in consumers(value))
