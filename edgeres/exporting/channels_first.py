"""One layout: networks of channel-last frameworks compute in ``(N, C, H, W)`` throughout.

TensorFlow's exporters write a ``Transpose`` in front of each convolution and one behind it, and
what stands between two convolutions (biases, normalization, activations, padding, residual sums)
works in ``(N, H, W, C)``. No engine folds any of that into a convolution. Here each ``Transpose``
to channels last is moved behind the node that reads it, until it meets one to channels first, and
both are gone.

Rules, for a node that reads ``Transpose<perm=[0, 2, 3, 1]>`` of ``(N, C, H, W)`` tensors:

1. Elementwise: constants are turned with it, and so are tensors of one pixel, which costs nothing.
2. ``Pad``, ``Concat``, ``Softmax``, ``Slice`` and reductions get their axes turned.
3. ``MatMul`` by ``(C, K)`` weights is a ``Conv`` of one tap.
4. ``MatMul`` or ``Gemm`` of the flattened image gets its weights' rows turned.
5. The image input of a channel-last network is turned once, in front of everything.

The graph is left as it was unless the rules leave less to transpose.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common

from edgeres.exporting.turned import FIRST, LAST, VIEWS, is_last, turned_node
from edgeres.exporting.views import permutation
from edgeres.graph.edit import (
    add_constant,
    bypass,
    constant,
    data_input,
    input_at,
    insert_before,
    made_by,
    static_shape,
)


class ChannelsFirst(ir.passes.InPlacePass):
    """Applies the rules of this module."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Turns a copy, and keeps it where less is transposed in it."""
        before = _transposed(model.graph)
        if not before:
            return ir.passes.PassResult(model, False)
        copy = model.clone()
        _turn_input(copy.graph)
        for node in copy.graph:
            _turn_node(node)
        common.RemoveUnusedNodesPass()(copy)
        if _transposed(copy.graph) >= before:
            return ir.passes.PassResult(model, False)
        model.graph = copy.graph
        return ir.passes.PassResult(model, True)


def _transposed(graph: ir.Graph) -> int:
    """Numbers that Transposes move, for one image."""
    return sum(
        math.prod(static_shape(node.outputs[0]) or (1,))
        for node in graph
        if node.op_type == "Transpose" and not _is_free(node)
    )


def _is_free(node: ir.Node) -> bool:
    """True for a Transpose that moves nothing: one pixel, or one channel."""
    shape = static_shape(data_input(node))
    if shape is None:
        return False
    moved = [axis for axis in permutation(node) if shape[axis] != 1]
    return moved == sorted(moved)


def _turn_input(graph: ir.Graph) -> None:
    """Rule 5: two Transposes that cancel; the rules then move the second one."""
    (image,) = [value for value in graph.inputs if not value.is_initializer()]
    shape = static_shape(image)
    users = list(image.uses())
    if shape is None or len(shape) != 4 or not users:
        return
    if all(use.node.op_type == "Transpose" for use in users):
        return
    first = next(node for node in graph if any(use.node is node for use in users))
    turned = insert_before(first, "Transpose", [image], _first(shape), {"perm": list(FIRST)})
    again = insert_before(first, "Transpose", [turned], shape, {"perm": list(LAST)})
    turned.type = again.type = image.type
    for use in users:
        use.node.replace_input_with(use.idx, again)


def _first(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(shape[axis] for axis in FIRST)


def _turn_node(node: ir.Node) -> None:
    if node.op_type == "Transpose":
        before = made_by(data_input(node), "Transpose")
        if before is not None and is_last(data_input(node)) and permutation(node) == list(FIRST):
            bypass(node, data_input(before))
        return
    if node.op_type in ("MatMul", "Gemm") and _turn_rows(node):
        return
    if not any(is_last(value) for value in node.inputs):
        return
    turned_node(node)


def _turn_rows(node: ir.Node) -> bool:
    """Rule 4."""
    view = made_by(input_at(node, 0), *VIEWS)
    weight, flat = constant(input_at(node, 1)), static_shape(input_at(node, 0))
    transposed_first = node.attributes.get_int("transA", 0) == 1
    if view is None or weight is None or weight.ndim != 2 or transposed_first:
        return False
    source = data_input(view)
    shape = static_shape(source)
    if not is_last(source) or shape is None or flat != (1, math.prod(shape[1:])):
        return False
    by_row = node.attributes.get_int("transB", 0) == 1
    rows: NDArray[np.generic] = weight.T if by_row else weight
    rows = rows.reshape(*shape[1:], -1).transpose(2, 0, 1, 3).reshape(rows.shape)
    inner = data_input(made_by(source, "Transpose") or node)
    flattened = insert_before(node, "Flatten", [inner], flat, {"axis": 1})
    node.replace_input_with(0, flattened)
    node.replace_input_with(1, add_constant(node, "weight", rows.T if by_row else rows))
    return True
