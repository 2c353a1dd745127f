"""Global average pooling in one form: ``GlobalAveragePool``.

Rules:

1. ``ReduceMean`` over height and width of ``(N, C, H, W)``.
2. The same behind a ``Transpose`` to ``(N, H, W, C)``, as channel-last frameworks write it.
3. ``AveragePool`` with one window, which covers the whole image and no padding: dilated windows
   leave pixels out, and ``auto_pad`` pads where strides make it (the output is one pixel only
   without).

4. ``ReduceMean`` over the pixels of ``(N, C, H * W)``, a view of the image.
5. ``ReduceMean`` over rows of one over columns, or the other way round: two means in a row.

What the old node gave in another shape is kept by a ``Reshape`` behind the new one.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeres.errors import ModelError
from edgeres.exporting.conv_form import explicit_pads
from edgeres.exporting.views import VIEWS, permutation
from edgeres.graph.edit import (
    NodePass,
    add_constant,
    constant_ints,
    data_input,
    input_at,
    insert_before,
    made_by,
    replace,
    static_shape,
)

SPATIAL = (2, 3)


class GlobalPools(NodePass):
    """Applies the rules of this module."""

    def visit(self, node: ir.Node) -> bool:
        """Replaces one node that averages over the whole image."""
        source = _averaged(node)
        shape, target = static_shape(source), static_shape(node.outputs[0])
        if source is None or shape is None or target is None:
            return False
        pooled = (shape[0], shape[1], 1, 1)
        if target == pooled:
            replace(node, "GlobalAveragePool", [source])
            return True
        average = insert_before(node, "GlobalAveragePool", [source], pooled)
        wanted = add_constant(node, "shape", np.array((-1, *target[1:]), np.int64))
        replace(node, "Reshape", [average, wanted])
        return True

    def ensures(self, model: ir.Model) -> None:
        """No mean over height and width is left in another form."""
        for node in model.graph:
            if _averaged(node) is not None:
                raise ModelError(f"{node.op_type} node '{node.name}' still averages an image.")


def _averaged(node: ir.Node) -> ir.Value | None:
    """The ``(N, C, H, W)`` tensor that a node averages over all of H and W."""
    if node.op_type == "ReduceMean":
        return _of_reduce_mean(node)
    if node.op_type == "AveragePool":
        return data_input(node) if _is_one_whole_window(node) else None
    return None


def _is_one_whole_window(pool: ir.Node) -> bool:
    shape, output = static_shape(data_input(pool)), static_shape(pool.outputs[0])
    if shape is None or output is None or len(shape) != 4 or output[2:] != (1, 1):
        return False
    padding = explicit_pads(
        pool,
        shape[2:],
        list(shape[2:]),
        list(pool.attributes.get_ints("strides", (1, 1))),
    )
    return (
        tuple(pool.attributes.get_ints("kernel_shape", ())) == shape[2:]
        and set(pool.attributes.get_ints("dilations", (1, 1))) == {1}
        and not any(padding)
    )


def _of_reduce_mean(node: ir.Node) -> ir.Value | None:
    source = data_input(node)
    shape, axes = static_shape(source), constant_ints(input_at(node, 1))
    if shape is None or axes is None:
        return None
    if (first := made_by(source, "ReduceMean")) is not None:
        return _of_two_means(first, [axis % len(shape) for axis in axes])
    if len(shape) == 3:
        return _of_pixels(source, shape) if [axis % 3 for axis in axes] == [2] else None
    if len(shape) != 4:
        return None
    positive = [axis % 4 for axis in axes]
    transpose = made_by(source, "Transpose")
    if transpose is not None:
        perm = permutation(transpose)
        moved = sorted(perm[axis] for axis in positive)
        return data_input(transpose) if tuple(moved) == SPATIAL and perm[0] == 0 else None
    return source if tuple(sorted(positive)) == SPATIAL else None


def _of_pixels(source: ir.Value, shape: tuple[int, ...]) -> ir.Value | None:
    view = made_by(source, *VIEWS)
    image = None if view is None else data_input(view)
    before = static_shape(image)
    if before is None or len(before) != 4 or before[:2] != shape[:2]:
        return None
    return image


def _of_two_means(first: ir.Node, second: list[int]) -> ir.Value | None:
    """The image, where a mean over one axis of a mean over another leaves no pixels."""
    image, axes = data_input(first), constant_ints(input_at(first, 1))
    if len(static_shape(image) or ()) != 4 or axes is None or len(axes) != 1 or len(second) != 1:
        return None
    left = list(range(4))
    if first.attributes.get_int("keepdims", 1) == 0:
        left.remove(axes[0] % 4)
    return image if tuple(sorted((axes[0] % 4, left[second[0]]))) == SPATIAL else None
