"""Networks over lines, ``(N, C, T)``, computed as over images of one row, ``(N, C, 1, T)``.

Engines have INT8 kernels for two spatial dimensions, and every later pass looks for them. A Conv of
one dimension is exactly that of two with a kernel of one row: the same products in the same sums.

Rules, for a node that reads ``(N, C, T)`` tensors and no others but constants:

1. Conv, pools, normalization and elementwise nodes get a row: kernel, strides, dilations and pads
   one for it, weights and constants a dimension of one.
2. ``Concat`` along channels or time, ``Pad`` and a mean over time get their axes moved.
3. In front of each such node stands an ``Unsqueeze``, behind it a ``Squeeze``. Where one follows
   the other, both go.

Where a network has no Conv or pool over lines it is left as it is.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeres.graph.edit import (
    NodePass,
    add_constant,
    bypass,
    constant,
    constant_ints,
    data_input,
    input_at,
    insert_before,
    made_by,
    static_shape,
)

_WINDOWS = {"kernel_shape": 1, "strides": 1, "dilations": 1}
_WINDOWED = frozenset({"Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool"})
_SAME = frozenset(
    {"GlobalAveragePool", "GlobalMaxPool", "BatchNormalization", "InstanceNormalization"}
)
_ELEMENTWISE = frozenset(
    {
        *("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "PRelu"),
        *("Relu", "LeakyRelu", "Elu", "Selu", "Celu", "Sigmoid", "HardSigmoid", "HardSwish"),
        *("Tanh", "Clip", "Softplus", "Softsign", "Exp", "Sqrt", "Neg", "Abs", "Erf", "Gelu"),
        *("Mish", "Identity", "Dropout"),
    }
)
_MEANS = frozenset({"ReduceMean", "ReduceMax", "ReduceSum"})
_ROW = 2
"""Where the dimension of the row stands."""


class LinesAsImages(ir.passes.InPlacePass):
    """Applies the rules of this module."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Gives rows to all nodes that can have one, where layers are among them."""
        nodes = [node for node in model.graph if _fits(node)]
        if not any(node.op_type in _WINDOWED for node in nodes):
            return ir.passes.PassResult(model, modified=False)
        rows: dict[ir.Value, ir.Value] = {}
        for node in nodes:
            _give_row(node, rows)
        _NoPairs()(model)
        return ir.passes.PassResult(model, modified=True)


class _NoPairs(NodePass):
    """Rule 3: a row that is taken away and given back stays."""

    def visit(self, node: ir.Node) -> bool:
        before = made_by(data_input(node), "Squeeze") if node.op_type == "Unsqueeze" else None
        if before is None or not (_is_of_row(node) and _is_of_row(before)):
            return False
        return bypass(node, data_input(before))


def _is_of_row(node: ir.Node) -> bool:
    return constant_ints(input_at(node, 1)) == (_ROW,)


def _fits(node: ir.Node) -> bool:
    """Whether the rules know what the node does to lines."""
    fed = [value for value in node.inputs if value is not None and constant(value) is None]
    if not fed or len(node.outputs) != 1 or not all(_is_line(value) for value in fed):
        return False
    if node.op_type in _MEANS:
        return constant_ints(input_at(node, 1)) in ((2,), (-1,))
    if node.op_type == "Pad":
        return len(constant_ints(input_at(node, 1)) or ()) == 6 and input_at(node, 3) is None
    if node.op_type == "Concat":
        return len(fed) == len(node.inputs)
    if node.op_type in _ELEMENTWISE:
        return _is_line(node.outputs[0])
    return node.op_type in _WINDOWED | _SAME and fed == [node.inputs[0]]


def _is_line(value: ir.Value) -> bool:
    return len(static_shape(value) or ()) == 3


def _give_row(node: ir.Node, rows: dict[ir.Value, ir.Value]) -> None:
    """Rules 1 and 2, with views around the node; each tensor gets one view, the first time."""
    for index, value in enumerate(node.inputs):
        shape = static_shape(value)
        if value is None or shape is None:
            continue
        array = constant(value)
        if array is None:
            if value not in rows:
                axes = add_constant(node, "row", np.array([_ROW], np.int64))
                row = insert_before(node, "Unsqueeze", [value, axes], (*shape[:2], 1, *shape[2:]))
                row.type = value.type
                rows[value] = row
            node.replace_input_with(index, rows[value])
        elif _has_row(node, index, array.ndim):
            wider = np.expand_dims(array, array.ndim - 1)
            node.replace_input_with(index, add_constant(node, "wider", wider))
    _set_attributes(node)
    _take_row(node)


def _has_row(node: ir.Node, index: int, rank: int) -> bool:
    """Whether a constant runs along the channels, and so gets a dimension in front of the time."""
    if node.op_type in _WINDOWED:
        return index == 1
    return node.op_type in _ELEMENTWISE and rank >= 2


def _set_attributes(node: ir.Node) -> None:
    attributes = node.attributes
    if node.op_type in _WINDOWED:
        for name, one in _WINDOWS.items():
            if name in attributes:
                given = attributes.get_ints(name, ())
                attributes[name] = ir.AttrInt64s(name, (one, *given))
        if "pads" in attributes:
            begin, end = attributes.get_ints("pads", ())
            attributes["pads"] = ir.AttrInt64s("pads", (0, begin, 0, end))
        for name in ("output_padding", "output_shape"):
            if name in attributes:
                first = 0 if name == "output_padding" else 1
                given = attributes.get_ints(name, ())
                attributes[name] = ir.AttrInt64s(name, (first, *given))
    elif node.op_type == "Concat":
        axis = attributes.get_int("axis", 1) % 3
        attributes["axis"] = ir.AttrInt64("axis", axis + (axis >= _ROW))
    elif node.op_type == "Pad":
        amounts = constant_ints(input_at(node, 1)) or ()
        with_row = [*amounts[:2], 0, amounts[2], *amounts[3:5], 0, amounts[5]]
        node.replace_input_with(1, add_constant(node, "pads", np.array(with_row, np.int64)))
    elif node.op_type in _MEANS:
        keep = attributes.get_int("keepdims", 1)
        axes = np.array([2, 3], np.int64)
        attributes["keepdims"] = ir.AttrInt64("keepdims", keep)
        node.replace_input_with(1, add_constant(node, "axes", axes))


def _take_row(node: ir.Node) -> None:
    """Puts a Squeeze behind a node, which takes over its output's name and readers."""
    output = node.outputs[0]
    shape = static_shape(output)
    if shape is None or len(shape) != 3:  # a mean that keeps no dimensions has no row
        return
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    axes = add_constant(node, "row", np.array([_ROW], np.int64))
    squeeze = ir.Node("", "Squeeze", [output, axes], name=f"{node.name}.squeeze")
    graph.insert_after(node, squeeze)
    line = squeeze.outputs[0]
    line.shape, line.type = output.shape, output.type
    for user, index in list(output.uses()):
        if user is not squeeze:
            user.replace_input_with(index, line)
    for place, value in enumerate(graph.outputs):
        if value is output:
            line.name, output.name = output.name, f"{output.name}.rows"
            graph.outputs[place] = line
    output.shape = ir.Shape((*shape[:2], 1, *shape[2:]))
