"""Fully connected layers in one form: ``Gemm(transB=1)`` with weights ``(K, C)`` and a bias.

TensorRT quantizes Gemm weights per output channel only along axis 0 with ``transB=1``, and one
form spares every later stage the others.

Rules:

1. ``MatMul`` of ``(N, C)`` by constant weights ``(C, K)`` becomes ``Gemm``; a constant added to
   it later is folded into the bias with the other affine operators.
2. ``transB=0`` weights are transposed; ``alpha`` and ``beta`` are multiplied in.
3. A missing bias is written as zeros; one of another shape is written as ``(K,)``.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeres.errors import ModelError
from edgeres.graph.edit import (
    NodePass,
    add_constant,
    constant,
    data_input,
    input_at,
    replace,
    static_shape,
)


class LinearForm(NodePass):
    """Applies the rules of this module."""

    def visit(self, node: ir.Node) -> bool:
        """Rewrites one MatMul or Gemm by constant weights."""
        if node.op_type == "MatMul":
            return _from_matmul(node)
        return node.op_type == "Gemm" and _normalize(node)

    def ensures(self, model: ir.Model) -> None:
        """Every Gemm by constant weights has the one form."""
        for node in model.graph:
            if node.op_type == "Gemm" and _parts(node) is not None and not _is_normal(node):
                raise ModelError(f"Gemm node '{node.name}' is not in the form (K, C), transB=1.")


def _from_matmul(node: ir.Node) -> bool:
    data, weight = data_input(node), constant(input_at(node, 1))
    shape = static_shape(data)
    if weight is None or weight.ndim != 2 or shape is None or len(shape) != 2:
        return False
    _write(node, weight.T, np.zeros(weight.shape[1], np.float32))
    return True


def _normalize(node: ir.Node) -> bool:
    parts = _parts(node)
    if parts is None or _is_normal(node):
        return False
    weight, bias = parts
    alpha = np.float64(node.attributes.get_float("alpha", 1.0))
    beta = np.float64(node.attributes.get_float("beta", 1.0))
    if node.attributes.get_int("transB", 0) != 1:
        weight = weight.T
    flat = np.broadcast_to((bias * beta).reshape(-1), weight.shape[:1])
    _write(node, weight * alpha, flat)
    return True


def _parts(node: ir.Node) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Weights as written and bias of a Gemm that is a plain layer, in float64."""
    weight, bias_value = constant(input_at(node, 1)), input_at(node, 2)
    bias = constant(bias_value) if bias_value is not None else np.zeros(1, np.float32)
    if weight is None or bias is None or node.attributes.get_int("transA", 0) == 1:
        return None
    outputs = weight.shape[0 if node.attributes.get_int("transB", 0) == 1 else 1]
    if bias.size not in (1, outputs) or (bias.ndim > 1 and bias.shape[0] != 1):
        return None
    return weight.astype(np.float64), bias.astype(np.float64)


def _is_normal(node: ir.Node) -> bool:
    weight, bias = static_shape(input_at(node, 1)), constant(input_at(node, 2))
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    return (
        attributes == {"transB": 1}
        and weight is not None
        and bias is not None
        and bias.shape == weight[:1]
    )


def _write(node: ir.Node, weight: NDArray[np.generic], bias: NDArray[np.generic]) -> None:
    weight_value = add_constant(node, "weight", weight.astype(np.float32))
    bias_value = add_constant(node, "bias", bias.astype(np.float32))
    replace(node, "Gemm", [data_input(node), weight_value, bias_value], {"transB": 1})
