"""What scales and shifts each channel and follows no layer becomes a depthwise ``Conv`` of one tap.

A pre-activation network normalizes the sum of two branches, which no convolution is alone in front
of. As ``BatchNormalization``, or ``Mul`` and ``Add``, it stays float in every engine, with a
conversion on each side; a depthwise convolution runs in INT8 with the Relu behind it, and with a
scale for each channel its weights are exact.

Rules, for a tensor ``(N, C, H, W)`` that engines hold in INT8, so not the image itself and not what
another normalization gives:

1. ``BatchNormalization`` with constant statistics.
2. ``Mul`` by a constant per channel, and the ``Add`` or ``Sub`` of one that alone reads it.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeres.graph.edit import (
    NodePass,
    add_constant,
    constant,
    data_input,
    input_at,
    made_by,
    only_user,
    replace,
    static_shape,
)

_IN_INTEGERS = ("Conv", "Add", "Relu", "Clip", "MaxPool", "AveragePool", "Concat")
F64 = NDArray[np.float64]


class ChannelAffine(NodePass):
    """Applies the rules of this module; run it after what folds into layers."""

    def visit(self, node: ir.Node) -> bool:
        """Replaces one BatchNormalization, or one Mul and what follows it."""
        found = _normalization(node) or _factor_and_shift(node)
        if found is None:
            return False
        source, last, factor, shift = found
        channels = len(factor)
        weight = factor.astype(np.float32).reshape(channels, 1, 1, 1)
        inputs = [
            source,
            add_constant(last, "weight", weight),
            add_constant(last, "bias", shift.astype(np.float32)),
        ]
        replace(last, "Conv", inputs, {"kernel_shape": [1, 1], "group": channels})
        return True


def _normalization(node: ir.Node) -> tuple[ir.Value, ir.Node, F64, F64] | None:
    if node.op_type != "BatchNormalization" or not _is_map(data_input(node)):
        return None
    terms = [constant(input_at(node, index)) for index in range(1, 5)]
    if any(term is None for term in terms) or any(v.uses() for v in node.outputs[1:]):
        return None
    gamma, beta, mean, var = (np.asarray(term, np.float64) for term in terms)
    factor = gamma / np.sqrt(var + node.attributes.get_float("epsilon", 1e-5))
    return data_input(node), node, factor, beta - mean * factor


def _factor_and_shift(node: ir.Node) -> tuple[ir.Value, ir.Node, F64, F64] | None:
    if node.op_type != "Mul":
        return None
    behind = only_user(node.outputs[0])
    if behind is None or behind.op_type not in ("Add", "Sub"):
        return None
    first, second = _operands(node), _operands(behind)
    if first is None or second is None or not _is_map(first[0]):
        return None
    if behind.op_type == "Sub" and behind.inputs[0] is not node.outputs[0]:
        return None
    return first[0], behind, first[1], -second[1] if behind.op_type == "Sub" else second[1]


def _operands(node: ir.Node) -> tuple[ir.Value, F64] | None:
    """A computed operand, and the constant one as one number per channel."""
    for index in range(2):
        value, array = node.inputs[index], constant(node.inputs[1 - index])
        shape = static_shape(value)
        if value is None or array is None or shape is None or len(shape) != 4 or array.ndim > 4:
            continue
        full = (1,) * (4 - array.ndim) + array.shape
        if array.dtype.kind == "f" and full == (1, shape[1], 1, 1):
            return value, array.astype(np.float64).reshape(-1)
    return None


def _is_map(value: ir.Value) -> bool:
    """True for an ``(N, C, H, W)`` of more than one pixel that an operator with INT8 gives."""
    shape = static_shape(value)
    if shape is None or len(shape) != 4 or shape[2] * shape[3] == 1:
        return False
    return made_by(value, *_IN_INTEGERS) is not None
