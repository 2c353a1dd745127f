"""Nodes whose constants say how many images there are, written so that they do not.

Rules, for a graph whose shapes are known for a batch of one:

1. ``Resize`` to sizes: only the axes that change are named.
2. ``Concat`` of an image with a block of one number, other than along the batch, is a ``Pad``.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeres.graph.edit import (
    Attribute,
    NodePass,
    add_constant,
    constant,
    constant_ints,
    data_input,
    input_at,
    replace,
    static_shape,
)


class ResizeForm(NodePass):
    """Rule 1."""

    def visit(self, node: ir.Node) -> bool:
        """Rewrites one Resize."""
        sizes, shape = constant_ints(input_at(node, 3)), static_shape(node.inputs[0])
        if node.op_type != "Resize" or sizes is None or shape is None or len(sizes) != len(shape):
            return False
        if "axes" in node.attributes or sizes[0] != shape[0]:
            return False
        crops = node.attributes.get_string("coordinate_transformation_mode", "half_pixel")
        if crops == "tf_crop_and_resize":
            return False
        axes = [axis for axis in range(len(sizes)) if axis > 1 or sizes[axis] != shape[axis]]
        attributes: dict[str, Attribute] = {
            name: list(a.as_ints()) if a.type == ir.AttributeType.INTS else a.value
            for name, a in node.attributes.items()
        }
        wanted = add_constant(node, "sizes", np.array([sizes[axis] for axis in axes], np.int64))
        inputs = [data_input(node), None, None, wanted]
        replace(node, "Resize", inputs, attributes | {"axes": axes})
        return True


class BlockForm(NodePass):
    """Rule 2."""

    def visit(self, node: ir.Node) -> bool:
        """Rewrites one Concat of two."""
        if node.op_type != "Concat" or len(node.inputs) != 2:
            return False
        for index, value in enumerate(node.inputs):
            block, image = constant(value), node.inputs[1 - index]
            axis = node.attributes.get_int("axis", 1)
            if block is None or image is None or not is_one_number(block):
                continue
            if constant(image) is not None or block.ndim < 2 or axis % block.ndim == 0:
                continue
            amounts = np.zeros(2 * block.ndim, np.int64)
            amounts[axis % block.ndim + (block.ndim if index else 0)] = block.shape[axis]
            inputs: list[ir.Value | None] = [image, add_constant(node, "pads", amounts)]
            if block.flat[0]:
                inputs.append(add_constant(node, "value", np.asarray(block.flat[0])))
            replace(node, "Pad", inputs, {"mode": "constant"})
            return True
        return False


def is_one_number(block: NDArray[np.generic]) -> bool:
    """True where all entries of a float array are the same."""
    return bool(block.dtype.kind == "f" and block.size and (block == block.flat[0]).all())
