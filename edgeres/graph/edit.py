"""What the passes ask of an ONNX graph and how they change it, on top of onnx-ir.

During the passes every shape is known for a batch of one (see :mod:`edgeres.graph.shapes`), so
a question about shapes has one answer, whatever the exporter called its dimensions.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeres.errors import ModelError

Attribute = int | float | str | Sequence[int]

#: Operators that a float network has none of, ONNX Runtime's own among them.
QUANTIZED = frozenset(
    {
        "QuantizeLinear",
        "DequantizeLinear",
        "DynamicQuantizeLinear",
        "QLinearConv",
        "QLinearMatMul",
        "QGemm",
        "ConvInteger",
        "MatMulInteger",
    }
)


class NodePass(ir.passes.InPlacePass):
    """A pass that looks at one node after the other, in topological order."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Visits every node once; nodes may be added and removed on the way."""
        modified = False
        for node in model.graph:
            modified |= self.visit(node)
        return ir.passes.PassResult(model, modified)

    @abstractmethod
    def visit(self, node: ir.Node) -> bool:
        """Changes the graph around a node where the pass applies; says whether it did."""


def owner(node: ir.Node) -> ir.Graph:
    """The graph that a node is in."""
    graph = node.graph
    if not isinstance(graph, ir.Graph):
        raise ModelError(f"Node '{node.name}' is in no graph.")
    return graph


def data_input(node: ir.Node) -> ir.Value:
    """The first input of a node, which every operator here must have."""
    if not node.inputs or node.inputs[0] is None:
        raise ModelError(f"Node '{node.name}' ({node.op_type}) has no input.")
    return node.inputs[0]


def input_at(node: ir.Node, index: int) -> ir.Value | None:
    """An optional input of a node."""
    return node.inputs[index] if index < len(node.inputs) else None


def constant(value: ir.Value | None) -> NDArray[np.generic] | None:
    """The value of an initializer; ``None`` for anything computed or fed."""
    if value is None or value.const_value is None or not value.is_initializer():
        return None
    return value.const_value.numpy()


def constant_ints(value: ir.Value | None) -> tuple[int, ...] | None:
    """The value of an initializer that holds integers, such as axes or a shape."""
    array = constant(value)
    if array is None or array.dtype.kind != "i":
        return None
    return tuple(int(v) for v in array.reshape(-1))


def static_shape(value: ir.Value | None) -> tuple[int, ...] | None:
    """The shape of a tensor for a batch of one; ``None`` where it is not known."""
    if value is None or value.shape is None:
        return None
    dims = tuple(value.shape)
    return tuple(int(d) for d in dims if isinstance(d, int)) if value.shape.is_static() else None


def only_user(value: ir.Value) -> ir.Node | None:
    """The node that alone uses a tensor, once; ``None`` where others see the tensor too."""
    uses = list(value.uses())
    return uses[0].node if len(uses) == 1 and not value.is_graph_output() else None


def made_by(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    """The node that computes a tensor, if it is one of these operators."""
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type in op_types else None


def add_constant(node: ir.Node, role: str, array: NDArray[np.generic]) -> ir.Value:
    """Adds an initializer for a node, under a name of its own made from the node's."""
    graph = owner(node)
    base = f"{node.name}.{role}"
    name, number = base, 0
    while name in graph.initializers:
        number += 1
        name = f"{base}_{number}"
    tensor = ir.tensor(np.asarray(array, order="C"), name=name)
    value = ir.Value(
        name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    graph.register_initializer(value)
    return value


def replace(
    node: ir.Node,
    op_type: str,
    inputs: Sequence[ir.Value | None],
    attributes: Mapping[str, Attribute] | None = None,
) -> ir.Node:
    """Puts a node of one output in the place of another; names and shape are kept."""
    graph = owner(node)
    new = ir.Node(
        "",
        op_type,
        inputs,
        attributes=ir.convenience.convert_attributes(dict(attributes or {})),
        name=_renamed(node.name or "", node.op_type.lower(), op_type.lower()),
    )
    old_output, output = node.outputs[0], new.outputs[0]
    output.shape, output.type = old_output.shape, old_output.type
    ir.convenience.replace_nodes_and_values(graph, node, [node], [new], [old_output], [output])
    return new


def _renamed(name: str, old: str, new: str) -> str:
    """A name that ends in its operator's, as :mod:`edgeres.exporting.trace` gives, follows it."""
    prefix, dot, last = name.rpartition(".")
    return f"{prefix}{dot}{new}" if last == old else name


def insert_before(
    node: ir.Node,
    op_type: str,
    inputs: Sequence[ir.Value | None],
    shape: Sequence[int | ir.SymbolicDim],
    attributes: Mapping[str, Attribute] | None = None,
) -> ir.Value:
    """Adds a node of one output in front of another and returns its output."""
    new = ir.Node(
        "",
        op_type,
        inputs,
        attributes=ir.convenience.convert_attributes(dict(attributes or {})),
        name=f"{node.name}.{op_type.lower()}",
    )
    owner(node).insert_before(node, new)
    output = new.outputs[0]
    output.type, output.shape = node.outputs[0].type, ir.Shape(shape)
    return output


def bypass(node: ir.Node, value: ir.Value) -> bool:
    """Removes a node and lets the users of its first output, the only one, read ``value`` instead.

    Returns:
        False where the node must stay: its output is a graph output, and ``value`` is a graph
        input, an initializer or another graph output, so the name could not move.
    """
    output = node.outputs[0]
    exposed = output.is_graph_output()
    if exposed and (value.producer() is None or value.is_graph_output()):
        return False
    ir.convenience.replace_all_uses_with(output, value, replace_graph_outputs=True)
    name = output.name
    owner(node).remove(node, safe=True)
    if exposed:
        value.name = name
    return True


def pad_before(
    node: ir.Node, source: ir.Value, begins: Sequence[int], ends: Sequence[int]
) -> ir.Value:
    """Puts a ``Pad`` with zeros in front of a node.

    Args:
        node: What is to read the result.
        source: ``(N, C, ...)`` of known shape.
        begins: Zeros in front, for each dimension behind the channels.
        ends: Zeros behind, likewise.
    """
    shape = static_shape(source)
    assert shape is not None
    sizes = (sum(parts) for parts in zip(shape[2:], begins, ends, strict=True))
    amounts = add_constant(node, "pads", np.array([0, 0, *begins, 0, 0, *ends], np.int64))
    return insert_before(node, "Pad", [source, amounts], (*shape[:2], *sizes))
