"""``Pad`` in front of a ``MaxPool`` becomes the pool's own padding, which engines run in INT8.

A pool pads with what never wins. So does a ``Pad`` with the lowest number, one with zeros in front
of which nothing is negative, as behind a Relu, and one that repeats the edge, which lies in the
same window; provided that each window meets the image and leaves no pixel out.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeres.exporting.conv_form import padding_mode, spatial_padding
from edgeres.graph.edit import (
    Attribute,
    NodePass,
    constant,
    data_input,
    input_at,
    made_by,
    replace,
    static_shape,
)
from edgeres.graph.layers import only_moves

_LOWEST = -1e30
_NEVER_NEGATIVE = frozenset({"Relu", "Sigmoid", "Softmax", "HardSigmoid", "Softplus", "Abs"})


class PoolPads(NodePass):
    """Applies the rule of this module to pools in the form of ``pool_form``."""

    def visit(self, node: ir.Node) -> bool:
        """Merges the Pad in front of one MaxPool."""
        if node.op_type != "MaxPool" or len(node.outputs) != 1:
            return False
        pad = made_by(data_input(node), "Pad")
        extra = spatial_padding(pad) if pad is not None else None
        if pad is None or extra is None or not _never_wins(pad):
            return False
        own = list(node.attributes.get_ints("pads", [0] * len(extra)))
        pads = [a + b for a, b in zip(own, extra, strict=True)]
        kernel = list(node.attributes.get_ints("kernel_shape", ()))
        dilations = list(node.attributes.get_ints("dilations", [1] * len(kernel)))
        if any(d != 1 for d in dilations) or any(
            amount >= size for amount, size in zip(pads, [*kernel, *kernel], strict=True)
        ):
            return False
        shape = static_shape(data_input(pad))
        if shape is None or node.attributes.get_int("ceil_mode", 0) == 1:
            return False
        attributes: dict[str, Attribute] = {
            "kernel_shape": kernel,
            "strides": list(node.attributes.get_ints("strides", [1] * len(kernel))),
            "pads": pads,
        }
        replace(node, "MaxPool", [data_input(pad)], attributes)
        return True


def _never_wins(pad: ir.Node) -> bool:
    if padding_mode(pad) != "constant":
        return padding_mode(pad) == "edge"
    filled = constant(input_at(pad, 2))
    if input_at(pad, 2) is not None and filled is None:
        return False
    number = 0.0 if filled is None else float(np.max(filled))
    return number <= _LOWEST or (number == 0 and _is_never_negative(data_input(pad)))


def _is_never_negative(value: ir.Value) -> bool:
    node = value.producer()
    while node is not None and only_moves(node):
        node = data_input(node).producer()
    if node is None:
        return False
    low = constant(input_at(node, 1)) if node.op_type == "Clip" else None
    return node.op_type in _NEVER_NEGATIVE or (low is not None and float(np.min(low)) >= 0)
