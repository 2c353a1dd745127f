"""Keeps the batch free where a network computes shapes from it.

Constants are folded for a batch of one, which would write that one into every shape. So they are
folded for batches of two and three first, on copies. A value that is the same for both is constant;
one that differs follows the batch. What reads that is written so that it needs no such value, or
the value stays computed.

Rules:

1. ``Reshape`` to a shape with one size that grows with the batch gets ``-1`` there; what was open
   before is the number that it has for any batch.
2. ``Expand`` to a batch that the tensor has already gets ``1`` there: ``Expand`` broadcasts.
3. ``Resize`` to sizes of which only the batch grows gets them for a batch of one; ``ResizeForm``
   leaves the batch out.
4. A block that is the same for every image is written once: ``Add``, ``Mul`` and their like
   broadcast it. In a ``Concat`` that goes for a block of one number, which ``BlockForm`` makes a
   ``Pad``.
5. All else that follows the batch is marked, and :mod:`edgeres.exporting.fold_constants` leaves it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common

from edgeres.errors import ModelError
from edgeres.exporting.batch_form import is_one_number
from edgeres.exporting.fold_constants import FOLLOWS_BATCH, FoldConstants
from edgeres.graph.edit import add_constant, bypass, data_input, replace
from edgeres.graph.shapes import set_batch

Values = Mapping[str, NDArray[np.generic]]
Shapes = Mapping[str, tuple[int | None, ...]]

_BROADCAST = frozenset({"Add", "Sub", "Mul", "Div", "Where", "Max", "Min", "Pow", "PRelu"})


class FreeBatch(ir.passes.InPlacePass):
    """Applies the rules of this module; a network that takes one batch only stays as it is."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Compares two batches and rewrites what follows them."""
        if not any(node.op_type in ("Shape", "Size") for node in model.graph):
            return ir.passes.PassResult(model, False)
        try:
            two, three = (_folded(model, batch) for batch in (2, 3))
        except (ModelError, ir.passes.InvariantError):
            return ir.passes.PassResult(model, False)
        following = {
            name for name in two[0].keys() & three[0].keys()
            if not np.array_equal(two[0][name], three[0][name])
        }  # fmt: skip
        if not following:
            return ir.passes.PassResult(model, False)
        for node in list(model.graph):
            name = node.outputs[0].name or ""
            if name in two[0] and name in three[0] and name not in following:
                bypass(node, add_constant(node, "value", two[0][name]))
            else:
                _rewrite(node, following, two, three)
        common.RemoveUnusedNodesPass()(model)
        for node in model.graph:
            if any(value.name in following for value in node.outputs):
                node.metadata_props[FOLLOWS_BATCH] = "1"
        return ir.passes.PassResult(model, True)


def _folded(model: ir.Model, batch: int) -> tuple[Values, Shapes]:
    """The values that fold for a batch, and the shapes of the tensors that are left."""
    copy = model.clone()
    set_batch(copy, batch)
    seen: dict[str, NDArray[np.generic]] = {}
    FoldConstants(seen)(copy)
    tensors = [*copy.graph.inputs, *(value for node in copy.graph for value in node.outputs)]
    shapes = {
        value.name or "": tuple(d if isinstance(d, int) else None for d in value.shape)
        for value in tensors
        if value.shape is not None
    }
    return seen, shapes


def _rewrite(
    node: ir.Node,
    following: set[str],
    two: tuple[Values, Shapes],
    three: tuple[Values, Shapes],
) -> None:
    for index, value in enumerate(node.inputs):
        if value is None or value.name not in following:
            continue
        first, second = two[0][value.name], three[0][value.name]
        if node.op_type == "Reshape" and index == 1:
            _free_reshape(node, first, second, two[1], three[1])
        elif node.op_type == "Expand" and index == 1:
            _free_expand(node, first, second, two[1], three[1])
        elif node.op_type == "Resize" and index == 3:
            _free_resize(node, first, second)
        elif _is_block(first, second) and (
            node.op_type in _BROADCAST or (node.op_type == "Concat" and is_one_number(first))
        ):
            node.replace_input_with(index, add_constant(node, "block", first[:1]))


def _free_reshape(
    node: ir.Node,
    first: NDArray[np.generic],
    second: NDArray[np.generic],
    small: Shapes,
    large: Shapes,
) -> None:
    if -1 in first.tolist():  # what comes out of it is known, or nothing is
        name = node.outputs[0].name or ""
        before, after = small.get(name, ()), large.get(name, ())
        if None in (*before, *after) or {len(before), len(after)} != {len(first)}:
            return
        first, second = np.array(before, np.int64), np.array(after, np.int64)
    differ = np.flatnonzero(first != second)
    if len(differ) != 1 or 0 in first.tolist():
        return
    (place,) = differ
    if int(first[place]) * 3 != int(second[place]) * 2:
        return
    target = first.astype(np.int64)
    target[place] = -1
    replace(node, "Reshape", [data_input(node), add_constant(node, "shape", target)])


def _free_expand(
    node: ir.Node,
    first: NDArray[np.generic],
    second: NDArray[np.generic],
    small: Shapes,
    large: Shapes,
) -> None:
    name = data_input(node).name or ""
    before, after = small.get(name), large.get(name)
    if before is None or after is None:
        return
    target = first.astype(np.int64)
    for place in np.flatnonzero(first != second):
        axis = int(place) - (len(target) - len(before))
        if axis < 0 or (before[axis], after[axis]) != (int(first[place]), int(second[place])):
            return
        target[place] = 1
    replace(node, "Expand", [data_input(node), add_constant(node, "shape", target)])


def _free_resize(node: ir.Node, first: NDArray[np.generic], second: NDArray[np.generic]) -> None:
    if (int(first[0]), int(second[0])) == (2, 3) and np.array_equal(first[1:], second[1:]):
        sizes = np.array([1, *first[1:]], np.int64)
        node.replace_input_with(3, add_constant(node, "sizes", sizes))


def _is_block(first: NDArray[np.generic], second: NDArray[np.generic]) -> bool:
    """True where both hold the same for every image."""
    return bool(
        first.dtype.kind in "fb"
        and first.ndim > 1
        and first.shape[1:] == second.shape[1:]
        and (len(first), len(second)) == (2, 3)
        and np.array_equal(first, np.broadcast_to(second[:1], first.shape))
        and np.array_equal(second, np.broadcast_to(second[:1], second.shape))
    )
