"""Reshapes, squeezes, flattenings and transposes that move no data, each in one form.

Exporters write the step from ``(N, C, 1, 1)`` to ``(N, C)`` in a dozen ways, many with the batch
baked in. All of them become ``Flatten(axis=1)``, which works for any batch.

Rules:

1. ``Transpose`` of ``Transpose`` is one ``Transpose``, or none.
2. ``Transpose`` that moves only dimensions of size 1, and not the batch, is a ``Reshape``.
3. A view of a view is a view of the first one's input.
4. A view that keeps the shape is nothing.
5. A view from ``(N, ...)`` to ``(N, K)`` is ``Flatten(axis=1)``.
6. A view from ``(N, ...)`` to ``(N, ...)`` is ``Reshape`` to ``(-1, ...)``.
7. A ``Reshape`` that changes the first dimension, as attention and group-wise layers do, leaves it
   open: whatever is split from the batch or joined with it grows with the batch.
8. Where the images are in another dimension, as behind a sequence, rules 2 to 7 do not hold.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeres.errors import ModelError
from edgeres.graph.edit import (
    NodePass,
    add_constant,
    bypass,
    constant_ints,
    data_input,
    input_at,
    made_by,
    replace,
    static_shape,
)
from edgeres.graph.shapes import images_elsewhere

VIEWS = ("Reshape", "Squeeze", "Unsqueeze", "Flatten")


class SimplifyTransposes(NodePass):
    """Rules 1 and 2."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Finds out where the images are, then visits every node."""
        self._elsewhere = images_elsewhere(model)
        return super().call(model)

    def visit(self, node: ir.Node) -> bool:
        """Joins a Transpose with the one before it, or makes it a Reshape."""
        if node.op_type != "Transpose":
            return False
        before = made_by(data_input(node), "Transpose")
        if before is not None:
            first, second = permutation(before), permutation(node)
            joined = [first[i] for i in second]
            source = data_input(before)
            if joined == sorted(joined):
                return bypass(node, source)
            node = replace(node, "Transpose", [source], {"perm": joined})
        if {data_input(node).name, node.outputs[0].name} & self._elsewhere:
            return before is not None
        return _as_reshape(node) or before is not None


class SimplifyViews(NodePass):
    """Rules 3 to 7."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Finds out where the images are, then visits every node."""
        self._elsewhere = images_elsewhere(model)
        return super().call(model)

    def visit(self, node: ir.Node) -> bool:
        """Rewrites one view of known shapes."""
        if node.op_type not in VIEWS or node.outputs[0].name in self._elsewhere:
            return False
        source = data_input(node)
        before = made_by(source, *VIEWS)
        if before is not None and data_input(before).name in self._elsewhere:
            before = None
        if before is not None:
            source = data_input(before)
        shape, target = static_shape(source), static_shape(node.outputs[0])
        if not shape or not target or source.name in self._elsewhere:
            return False
        if shape == target:
            return bypass(node, source)
        if shape[0] != target[0]:
            return _open_first(node, target)
        if before is None and _is_normal(node, target):
            return False
        if len(target) == 2:
            replace(node, "Flatten", [source], {"axis": 1})
        else:
            wanted = add_constant(node, "shape", np.array((-1, *target[1:]), np.int64))
            replace(node, "Reshape", [source, wanted])
        return True

    def ensures(self, model: ir.Model) -> None:
        """Every Flatten keeps the batch and joins the rest."""
        for node in model.graph:
            shape = static_shape(node.outputs[0])
            if node.outputs[0].name in self._elsewhere:
                continue
            if node.op_type == "Flatten" and _axis(node) != 1 and shape is not None:
                raise ModelError(
                    f"Flatten node '{node.name}' does not keep the batch: its output is {shape}.",
                    hint="Export the model with the batch as first dimension throughout.",
                )


def _open_first(node: ir.Node, target: tuple[int, ...]) -> bool:
    known = constant_ints(input_at(node, 1)) if node.op_type == "Reshape" else None
    wanted = (-1, *target[1:])
    if known is None or known == wanted:
        return False
    shape = add_constant(node, "shape", np.array(wanted, np.int64))
    replace(node, "Reshape", [data_input(node), shape])
    return True


def permutation(node: ir.Node) -> list[int]:
    """The ``perm`` of a Transpose; absent means all dimensions reversed."""
    rank = len(static_shape(data_input(node)) or static_shape(node.outputs[0]) or ())
    return list(node.attributes.get_ints("perm", tuple(reversed(range(rank)))))


def _as_reshape(node: ir.Node) -> bool:
    shape, target = static_shape(data_input(node)), static_shape(node.outputs[0])
    if shape is None or target is None:
        return False
    perm = permutation(node)
    moved = [axis for axis in perm if axis == 0 or shape[axis] != 1]
    if perm[0] != 0 or moved != sorted(moved):
        return False
    target_value = add_constant(node, "shape", np.array((-1, *target[1:]), np.int64))
    replace(node, "Reshape", [data_input(node), target_value])
    return True


def _is_normal(node: ir.Node, target: tuple[int, ...]) -> bool:
    if len(target) == 2:
        return node.op_type == "Flatten" and node.attributes.get_int("axis", 0) == 1
    return node.op_type == "Reshape" and constant_ints(input_at(node, 1)) == (-1, *target[1:])


def _axis(node: ir.Node) -> int:
    axis = node.attributes.get_int("axis", 1)
    shape = static_shape(data_input(node))
    return axis + len(shape) if axis < 0 and shape is not None else axis
