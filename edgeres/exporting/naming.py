"""One name for everything, made from the nodes' names and from nothing else.

Rules:

1. A node keeps the name that it came with (a module path, or what the foreign file said); one
   without gets its operator's name in lower case. A name that is taken gets ``_1``, ``_2``, ... in
   topological order.
2. A tensor is called after its node: ``<node>.out``; graph inputs and outputs keep theirs.
3. An initializer is called after the first node that reads it: ``<node>.weight``, ``.bias``, or
   the operator's own word for that input. Initializers are sorted by name, attributes too.
"""

from __future__ import annotations

import onnx
import onnx_ir as ir

from edgeres.errors import ModelError
from edgeres.graph.edit import owner

_ROLES = {("Conv", 1): "weight", ("Conv", 2): "bias", ("Gemm", 1): "weight", ("Gemm", 2): "bias"}


class NameEverything(ir.passes.InPlacePass):
    """Applies the rules of this module."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Names nodes, then tensors, then initializers."""
        graph = model.graph
        graph.sort()
        taken_nodes: set[str] = set()
        kept = [*graph.inputs, *graph.outputs]
        taken = {value.name or "" for value in kept}
        for value in (*graph.initializers.values(), *_tensors(graph)):
            if value not in kept:
                value.name = f"__{id(value)}"  # out of the way of the names to come
        for node in graph:
            node.name = _free(node.name or node.op_type.lower(), taken_nodes)
            for index, value in enumerate(node.outputs):
                if value not in kept:
                    suffix = "out" if index == 0 else f"out{index}"
                    value.name = _free(f"{node.name}.{suffix}", taken)
        _name_initializers(graph, model.opset_imports[""], taken)
        return ir.passes.PassResult(model, True)

    def ensures(self, model: ir.Model) -> None:
        """All names are there and unique."""
        graph = model.graph
        nodes = [node.name for node in graph]
        values = [v.name for v in (*graph.inputs, *graph.initializers.values(), *_tensors(graph))]
        for names in (nodes, values):
            if len(set(names)) != len(names) or not all(names):
                raise ModelError("Two nodes or two tensors have the same name.")


def _tensors(graph: ir.Graph) -> list[ir.Value]:
    return [value for node in graph for value in node.outputs]


def _name_initializers(graph: ir.Graph, opset: int, taken: set[str]) -> None:
    used: list[ir.Value] = []
    for node in graph:
        for index, value in enumerate(node.inputs):
            if value is not None and value.is_initializer() and value not in used:
                used.append(value)
                value.name = _free(f"{node.name}.{_role(node, index, opset)}", taken)
    for value in used:
        owner(next(iter(value.uses())).node).initializers.pop(value.name or "", None)
    graph.initializers.clear()
    for value in sorted(used, key=lambda v: v.name or ""):
        graph.register_initializer(value)
    for node in graph:
        attributes = sorted(node.attributes.values(), key=lambda a: a.name)
        node.attributes.clear()
        for attribute in attributes:
            node.attributes.add(attribute)


def _role(node: ir.Node, index: int, opset: int) -> str:
    if (node.op_type, index) in _ROLES:
        return _ROLES[node.op_type, index]
    declared = onnx.defs.get_schema(node.op_type, opset).inputs
    return declared[min(index, len(declared) - 1)].name.lower()


def _free(name: str, taken: set[str]) -> str:
    """The name itself, or the first of ``name_1``, ``name_2``, ... that is free; takes it."""
    candidate, number = name, 0
    while candidate in taken:
        number += 1
        candidate = f"{name}_{number}"
    taken.add(candidate)
    return candidate
