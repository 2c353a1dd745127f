"""Removes nodes that change nothing at inference, and Relus that were computed before.

Rules, each for one node:

1. ``Identity``; ``Dropout`` outside training; ``Cast`` to the type that the tensor has.
2. ``Pad`` by nothing; ``Expand`` to the shape that is there; a pooling window of 1x1 with stride
   1; ``Concat`` of one tensor; ``Transpose`` that keeps the order.
3. ``Clip`` from 0 with no upper bound is a ``Relu``.
4. ``Relu`` of a ``Relu``; a second ``Relu`` of the same tensor.
5. ``Mul`` and ``Div`` by ones, ``Add`` and ``Sub`` of zeros, where the shape stays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir

from edgeres.errors import ModelError
from edgeres.graph.edit import (
    NodePass,
    bypass,
    constant,
    constant_ints,
    data_input,
    input_at,
    made_by,
    replace,
    static_shape,
)


class RemoveNoOps(NodePass):
    """Applies the rules of this module."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Visits every node, then restores the order that shared Relus may have broken."""
        result = super().call(model)
        model.graph.sort()
        return result

    def visit(self, node: ir.Node) -> bool:
        """Removes or replaces one node where a rule applies."""
        if node.domain not in ("", "ai.onnx") or not node.inputs:
            return False
        if node.op_type == "Clip" and _is_relu(node):
            node = replace(node, "Relu", [data_input(node)])
            _reuse_relu(node)
            return True
        if node.op_type == "Relu":
            return _reuse_relu(node)
        if node.op_type in _NEUTRAL:
            kept = _beside_neutral(node)
            return kept is not None and bypass(node, kept)
        return _changes_nothing(node) and bypass(node, data_input(node))

    def ensures(self, model: ir.Model) -> None:
        """What is left of ``Identity`` only joins an input to an output; no ``Dropout`` is left."""
        for node in model.graph:
            if node.op_type == "Dropout":
                raise ModelError(
                    f"Dropout '{node.name or node.outputs[0].name}' is in training mode.",
                    hint="Call model.eval() before the export.",
                )


def _changes_nothing(node: ir.Node) -> bool:
    test = _NO_OPS.get(node.op_type)
    return test is not None and test(node)


def _is_same_type(cast: ir.Node) -> bool:
    return bool(cast.attributes.get_int("to") == data_input(cast).dtype)


def _is_same_shape(expand: ir.Node) -> bool:
    shape = static_shape(data_input(expand))
    if constant(input_at(expand, 1)) is None:
        return False  # it follows the batch: only for one image does it change nothing
    return shape is not None and shape == static_shape(expand.outputs[0])


def _keeps_order(transpose: ir.Node) -> bool:
    perm = list(transpose.attributes.get_ints("perm", ()))
    return bool(perm) and perm == sorted(perm)


def _adds_nothing(pad: ir.Node) -> bool:
    amounts = constant_ints(input_at(pad, 1))
    return amounts is not None and not any(amounts)


def _is_off(dropout: ir.Node) -> bool:
    training = input_at(dropout, 2)
    off = training is None or not np.any(constant(training))
    return off and (len(dropout.outputs) == 1 or not dropout.outputs[1].uses())


def _is_one_pixel(pool: ir.Node) -> bool:
    kernel = pool.attributes.get_ints("kernel_shape", ())
    strides = pool.attributes.get_ints("strides", ())
    padded = any(pool.attributes.get_ints("pads", ()))
    return len(pool.outputs) == 1 and {*kernel, *strides} <= {1} and not padded


_NO_OPS: Mapping[str, Callable[[ir.Node], bool]] = {
    "Identity": lambda node: True,
    "Dropout": _is_off,
    "Cast": _is_same_type,
    "Expand": _is_same_shape,
    "Transpose": _keeps_order,
    "Pad": _adds_nothing,
    "Concat": lambda node: len(node.inputs) == 1,
    "MaxPool": _is_one_pixel,
    "AveragePool": _is_one_pixel,
}


_NEUTRAL = {"Mul": 1.0, "Div": 1.0, "Add": 0.0, "Sub": 0.0}


def _beside_neutral(node: ir.Node) -> ir.Value | None:
    """The input that comes out as it went in; ``None`` where none does."""
    shape = static_shape(node.outputs[0])
    for index in (1,) if node.op_type in ("Div", "Sub") else (1, 0):
        number, other = constant(input_at(node, index)), input_at(node, 1 - index)
        if number is None or other is None or constant(other) is not None:
            continue
        if shape is not None and static_shape(other) == shape:
            return other if np.all(number == _NEUTRAL[node.op_type]) else None
    return None


def _is_relu(clip: ir.Node) -> bool:
    low, high = constant(input_at(clip, 1)), input_at(clip, 2)
    top = constant(high)
    unbounded = high is None or (top is not None and bool(np.all(top >= np.finfo("f4").max)))
    return low is not None and not np.any(low) and unbounded


def _reuse_relu(node: ir.Node) -> bool:
    """Lets the users of a Relu read an earlier one that has the same value."""
    source = data_input(node)
    if made_by(source, "Relu") is not None:
        return bypass(node, source)
    for use in source.uses():
        if use.node is node:
            break
        if use.node.op_type == "Relu":
            return bypass(node, use.node.outputs[0])
    return False
