"""Folds per-channel scaling and shifting into the Conv or Gemm in front of it.

``BatchNormalization`` at inference is ``y = gamma (x - mean) / sqrt(var + epsilon) + beta``
(Ioffe and Szegedy, 2015, arXiv:1502.03167, algorithm 2): one factor and one shift per channel.
``Mul``, ``Div``, ``Add`` and ``Sub`` by a constant per channel are the same thing. With
``x = W * a + b`` the result is ``(factor W) * a + (factor b + shift)``.

The arithmetic is done in float64 and rounded once, so the folded weights are the same bits on
every machine and as near to the unfolded network as float32 allows.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeres.errors import ModelError
from edgeres.graph.edit import (
    NodePass,
    add_constant,
    bypass,
    constant,
    data_input,
    input_at,
    made_by,
    only_user,
    static_shape,
)

F64 = NDArray[np.float64]


class FoldAffine(NodePass):
    """Folds BatchNormalization and per-channel Mul, Div, Add and Sub into Conv and Gemm."""

    def requires(self, model: ir.Model) -> None:
        """No BatchNormalization computes statistics of its own batch."""
        for node in model.graph:
            if (
                node.op_type == "BatchNormalization"
                and node.attributes.get_int("training_mode", 0) == 1
            ):
                raise ModelError(
                    f"BatchNormalization '{node.name}' is in training mode.",
                    hint="Call model.eval() before the export.",
                )

    def visit(self, node: ir.Node) -> bool:
        """Folds one affine node whose only input is a layer that nobody else reads."""
        found = _affine(node)
        if found is None:
            return False
        layer, factor, shift = found
        weight, bias = _weight_and_bias(layer)
        per_output = (-1, *[1] * (weight.ndim - 1))
        folded = (weight * factor.reshape(per_output)).astype(np.float32)
        layer.resize_inputs(3)
        layer.replace_input_with(1, add_constant(layer, "weight", folded))
        layer.replace_input_with(
            2, add_constant(layer, "bias", (bias * factor + shift).astype(np.float32))
        )
        return bypass(node, layer.outputs[0])

    def ensures(self, model: ir.Model) -> None:
        """No BatchNormalization follows a layer that it could be folded into."""
        for node in model.graph:
            if node.op_type == "BatchNormalization" and _affine(node) is not None:
                raise ModelError(f"BatchNormalization '{node.name}' was not folded.")


def _affine(node: ir.Node) -> tuple[ir.Node, F64, F64] | None:
    """The layer in front of an affine node, and the node's factor and shift per channel."""
    if node.op_type == "BatchNormalization":
        layer = _layer(data_input(node))
        terms = [constant(input_at(node, index)) for index in range(1, 5)]
        if layer is None or any(term is None for term in terms):
            return None
        gamma, beta, mean, var = (np.asarray(term, np.float64) for term in terms)
        with np.errstate(invalid="ignore"):  # a negative variance; NaN weights are refused later
            factor = gamma / np.sqrt(var + node.attributes.get_float("epsilon", 1e-5))
        return layer, factor, beta - mean * factor
    if node.op_type not in ("Mul", "Div", "Add", "Sub"):
        return None
    first, second = data_input(node), input_at(node, 1)
    layer, operand = _layer(first), constant(second)
    reversed_order = layer is None or operand is None
    if reversed_order:
        layer, operand = _layer(second), constant(first)
    if layer is None or operand is None:
        return None
    values = _per_channel(operand, layer)
    if values is None:
        return None
    return _as_factor_and_shift(node.op_type, layer, values, reversed_order=reversed_order)


def _as_factor_and_shift(
    op_type: str, layer: ir.Node, values: F64, *, reversed_order: bool
) -> tuple[ir.Node, F64, F64] | None:
    one, zero = np.ones_like(values), np.zeros_like(values)
    match op_type, reversed_order:
        case "Mul", _:
            return layer, values, zero
        case "Add", _:
            return layer, one, values
        case "Sub", False:
            return layer, one, -values
        case "Sub", True:
            return layer, -one, values
        case "Div", False if np.all(values != 0):
            return layer, 1.0 / values, zero
    return None


def _layer(value: ir.Value | None) -> ir.Node | None:
    """The Conv or Gemm that computes a tensor, if only one node reads it."""
    node = made_by(value, "Conv", "Gemm")
    if node is None or value is None or only_user(value) is None:
        return None
    if constant(input_at(node, 1)) is None:
        return None
    if input_at(node, 2) is not None and constant(input_at(node, 2)) is None:
        return None
    if node.op_type == "Gemm" and node.attributes.get_int("transB", 0) != 1:
        return None
    return node


def _per_channel(operand: NDArray[np.generic], layer: ir.Node) -> F64 | None:
    """A constant as one value per output channel, or ``None`` if it varies over the image."""
    shape = static_shape(layer.outputs[0])
    if shape is None or operand.dtype.kind != "f" or operand.ndim > len(shape):
        return None
    full = (1,) * (len(shape) - operand.ndim) + operand.shape
    channels = shape[1]
    if any(size != 1 for axis, size in enumerate(full) if axis != 1):
        return None
    if full[1] not in (1, channels):
        return None
    return np.broadcast_to(operand.astype(np.float64).reshape(-1), (channels,)).copy()


def _weight_and_bias(layer: ir.Node) -> tuple[F64, F64]:
    """Weights and bias of a layer in float64; a missing bias is zero."""
    weight = np.asarray(constant(input_at(layer, 1)), np.float64)
    bias = constant(input_at(layer, 2))
    zeros = np.zeros(weight.shape[0], np.float64)
    return weight, zeros if bias is None else bias.astype(np.float64)
