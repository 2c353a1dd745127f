"""One node of a channel-last network, written for channels first: rules 1 to 3 of the layout pass.

See :mod:`edgeres.exporting.channels_first`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from edgeres.exporting.views import permutation
from edgeres.graph.edit import (
    Attribute,
    add_constant,
    constant,
    constant_ints,
    data_input,
    input_at,
    insert_before,
    made_by,
    static_shape,
)

LAST, FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
VIEWS = ("Reshape", "Flatten", "Squeeze")
_UNARY = frozenset(
    {
        "Abs", "Cast", "Clip", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish",
        "LeakyRelu", "Log", "Mish", "Neg", "Reciprocal", "Relu", "Selu", "Sigmoid", "Softplus",
        "Softsign", "Sqrt", "Swish", "Tanh", "ThresholdedRelu",
    }
)  # fmt: skip
_ELEMENTWISE = frozenset({"Add", "Div", "Max", "Mean", "Min", "Mul", "PRelu", "Pow", "Sub", "Sum"})
_REDUCTIONS = frozenset({"ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum"})

Inputs = list[ir.Value | None]
Written = tuple[str, Inputs, dict[str, Attribute]]
"""Operator, inputs and attributes of the node that is to come."""


def is_last(value: ir.Value | None) -> bool:
    """True for a tensor that a Transpose to channels last made."""
    node = made_by(value, "Transpose")
    return node is not None and permutation(node) == list(LAST)


def turned_node(node: ir.Node) -> bool:
    """Lets a node read what the Transposes in front of it read, and puts one behind it.

    Returns:
        False where no rule applies; nothing is changed then.
    """
    shape = static_shape(node.outputs[0])
    if shape is None or len(node.outputs) != 1 or node.domain not in ("", "ai.onnx"):
        return False
    written = _written(node)
    if written is None:
        return False
    op_type, inputs, attributes = written
    if len(shape) != 4:  # a reduction to (N, C), which is the same in either layout
        output = insert_before(node, op_type, inputs, shape, attributes)
    else:
        first = [shape[axis] for axis in FIRST]
        inner = insert_before(node, op_type, inputs, first, attributes)
        output = insert_before(node, "Transpose", [inner], shape, {"perm": list(LAST)})
    graph, old = node.graph, node.outputs[0]
    name, exposed = old.name, old.is_graph_output()
    ir.convenience.replace_all_uses_with(old, output, replace_graph_outputs=True)
    assert graph is not None
    graph.remove(node, safe=True)
    if exposed:
        output.name = name
    return True


def _written(node: ir.Node) -> Written | None:
    attributes = _attributes(node)
    if node.op_type in _UNARY:
        return node.op_type, [_source(node.inputs[0]), *node.inputs[1:]], attributes
    if node.op_type in _ELEMENTWISE:
        turned = [_turned(node, value) for value in node.inputs]
        return None if None in turned else (node.op_type, turned, attributes)
    rule = _RULES.get(node.op_type)
    return None if rule is None or not is_last(node.inputs[0]) else rule(node, attributes)


def _concat(node: ir.Node, _: dict[str, Attribute]) -> Written | None:
    if not all(is_last(value) for value in node.inputs):
        return None
    axis = LAST[node.attributes.get_int("axis", 1)]
    return "Concat", [_source(value) for value in node.inputs], {"axis": axis}


def _softmax(node: ir.Node, _: dict[str, Attribute]) -> Written:
    axis = LAST[node.attributes.get_int("axis", -1)]
    return node.op_type, [_source(node.inputs[0])], {"axis": axis}


def _source(value: ir.Value | None) -> ir.Value:
    """What the Transpose reads that made a tensor."""
    node = made_by(value, "Transpose")
    assert node is not None
    return data_input(node)


def _turned(node: ir.Node, value: ir.Value | None) -> ir.Value | None:
    """An input of an elementwise node in channels first; ``None`` where turning it would cost."""
    if value is None or is_last(value):
        return None if value is None else _source(value)
    array, shape = constant(value), static_shape(value)
    if array is not None and array.ndim <= 4:
        whole = array.reshape((1,) * (4 - array.ndim) + array.shape)
        return value if array.size == 1 else add_constant(node, "turned", whole.transpose(FIRST))
    if shape is None or len(shape) != 4 or shape[1:3] != (1, 1):
        return None
    pixel = [shape[axis] for axis in FIRST]
    return insert_before(node, "Transpose", [value], pixel, {"perm": list(FIRST)})


def _reduction(node: ir.Node, attributes: dict[str, Attribute]) -> Written | None:
    axes = constant_ints(input_at(node, 1))
    if axes is None:
        return None
    turned = sorted(LAST[axis] for axis in axes)
    if not node.attributes.get_int("keepdims", 1):
        left = [LAST[axis] for axis in range(4) if axis not in [a % 4 for a in axes]]
        if left != sorted(left):
            return None
    return node.op_type, [_source(node.inputs[0]), _ints(node, "axes", turned)], attributes


def _pad(node: ir.Node, attributes: dict[str, Attribute]) -> Written | None:
    amounts = constant_ints(input_at(node, 1))
    if amounts is None or len(amounts) != 8 or input_at(node, 3) is not None:
        return None
    turned = [amounts[half + axis] for half in (0, 4) for axis in FIRST]
    inputs: Inputs = [_source(node.inputs[0]), _ints(node, "pads", turned)]
    return "Pad", [*inputs, *([] if input_at(node, 2) is None else [node.inputs[2]])], attributes


def _slice(node: ir.Node, _: dict[str, Attribute]) -> Written | None:
    starts, axes = constant_ints(input_at(node, 1)), constant_ints(input_at(node, 3))
    if starts is None or (axes is None and input_at(node, 3) is not None):
        return None
    turned = [LAST[axis] for axis in (axes or range(len(starts)))]
    inputs: Inputs = [_source(node.inputs[0]), node.inputs[1], node.inputs[2]]
    return "Slice", [*inputs, _ints(node, "axes", turned), *node.inputs[4:]], {}


def _convolution(node: ir.Node, _: dict[str, Attribute]) -> Written | None:
    weight = constant(input_at(node, 1))
    if weight is None or weight.ndim != 2:
        return None
    taps = add_constant(node, "weight", np.ascontiguousarray(weight.T)[:, :, None, None])
    return "Conv", [_source(node.inputs[0]), taps], {"kernel_shape": [1, 1]}


def _ints(node: ir.Node, role: str, values: Sequence[int]) -> ir.Value:
    return add_constant(node, role, np.array(values, np.int64))


def _attributes(node: ir.Node) -> dict[str, Attribute]:
    return {
        name: list(a.as_ints()) if a.type == ir.AttributeType.INTS else a.value
        for name, a in node.attributes.items()
    }


_RULES: Mapping[str, Callable[[ir.Node, dict[str, Attribute]], Written | None]] = {
    "Pad": _pad,
    "Concat": _concat,
    "Softmax": _softmax,
    "LogSoftmax": _softmax,
    "Slice": _slice,
    "MatMul": _convolution,
    **dict.fromkeys(_REDUCTIONS, _reduction),
}
