"""Clips behind Q/DQ, for an engine that clips the integers instead of the numbers.

OpenVINO 2026.4 moves a Clip in front of the DequantizeLinear that it reads. Its bounds then are
steps, and those that are no whole number are cut to one: values between the bound and the next
level come out up to a step off, and a bound at the end of the integers loses a whole level where
float32 puts it just below. It does that to a Max behind a Min, too, as long as their bounds are
single numbers; bounds for each channel it leaves alone. Between the two may stand what only moves
values, puts several tensors together (Concat) or scales them.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeres.graph.layers import RECTIFIERS, constant, node_name, only_moves
from edgeres.quantization.qdq import DEQUANTIZE, add_initializer

_MOVES = RECTIFIERS | {"Concat", "Resize", "Slice", "Split", "Gather", "DepthToSpace"}
_SCALES = ("Mul", "Div")
_NEAR = 1e-3
"""Of a step: how near to the end of the integers a bound cuts nothing off."""

Grid = tuple[float, int, int, int]
"""Scale, zero point, least and largest integer."""


def guard_clips(graph: ir.Graph) -> None:
    """Rewrites the Clips behind a DequantizeLinear, each to the same arithmetic.

    A bound at or beyond the end of the integers is taken away from it: nothing is cut there. Zero
    is a whole number of steps and stays. With any other bound the Clip becomes a Max and a Min with
    a bound for each channel.
    """
    for node in list(graph):
        if node.op_type != "Clip" or node.domain not in ("", "ai.onnx"):
            continue
        if not _stands_on_integers(node.inputs[0]):
            continue
        grid = _grid(node.inputs[0])
        bounds = [constant(each) for each in (*node.inputs[1:], None, None)[:2]]
        absent = [each is None for each in (*node.inputs[1:], None, None)[:2]]
        if any(b is None and not is_absent for b, is_absent in zip(bounds, absent, strict=True)):
            continue
        _rewrite(graph, node, bounds, grid)


def _rewrite(
    graph: ir.Graph, node: ir.Node, bounds: list[NDArray[np.generic] | None], grid: Grid | None
) -> None:
    cuts = [bound is not None for bound in bounds]
    if grid is not None:
        scale, zero, low, high = grid
        steps = [None if b is None else float(b.item()) / scale + zero for b in bounds]
        cuts = [
            steps[0] is not None and steps[0] > low + _NEAR,
            steps[1] is not None and steps[1] < high - _NEAR,
        ]
    if all(not cut or bounds[side] == 0 for side, cut in enumerate(cuts)):
        if grid is None:
            return
        beyond = ((low - 1 - zero) * scale, (high + 1 - zero) * scale)
        for side, name in enumerate(("min", "max")):
            if bounds[side] is not None and not cuts[side]:
                label = f"{node_name(node)}.beyond_{name}"
                limit = add_initializer(graph, label, np.float32(beyond[side]))
                node.replace_input_with(side + 1, limit)
        return
    shape = _spread(node.inputs[0])
    value, new_nodes = node.inputs[0], list[ir.Node]()
    assert value is not None
    for side, op in enumerate(("Max", "Min")):
        bound = bounds[side]
        if bound is None or not cuts[side]:
            continue
        name = f"{node_name(node)}.{op.lower()}"
        limit = add_initializer(graph, f"{name}.bound", np.full(shape, bound.item(), np.float32))
        output = ir.Value(
            name=f"{name}.out", shape=node.outputs[0].shape, type=node.outputs[0].type
        )
        new_nodes.append(ir.node(op, [value, limit], outputs=[output], name=name))
        value = output
    last = new_nodes[-1]
    old, name = node.outputs[0], node_name(node)
    graph.insert_before(node, new_nodes)
    is_output = old.is_graph_output()
    output_name = old.name
    ir.convenience.replace_all_uses_with(old, last.outputs[0], replace_graph_outputs=is_output)
    graph.remove(node, safe=True)
    last.name, last.outputs[0].name = name, output_name


def _stands_on_integers(value: ir.Value | None) -> bool:
    """Whether a tensor is dequantized integers that were only moved, put together and scaled."""
    node = None if value is None else value.producer()
    if node is None:
        return False
    if node.op_type == DEQUANTIZE:
        return True
    if node.op_type in _SCALES:
        parts = [each for each in node.inputs if constant(each) is None]
        return len(parts) == 1 and _stands_on_integers(parts[0])
    if not (only_moves(node) or node.op_type in _MOVES):
        return False
    sources = node.inputs if node.op_type == "Concat" else node.inputs[:1]
    return all(_stands_on_integers(each) for each in sources)


def _grid(value: ir.Value | None) -> Grid | None:
    """The levels that a tensor's values stand on; ``None`` where they are not all the same."""
    node = None if value is None else value.producer()
    if node is None:
        return None
    if node.op_type == DEQUANTIZE:
        scale = constant(node.inputs[1])
        zero = constant(node.inputs[2]) if len(node.inputs) > 2 else None
        if scale is None or zero is None or scale.size != 1:
            return None
        ends = np.iinfo(np.int8 if zero.dtype == np.int8 else np.uint8)
        return float(scale.item()), int(zero.item()), int(ends.min), int(ends.max)
    if not (only_moves(node) or node.op_type in _MOVES):
        return None
    sources = node.inputs if node.op_type == "Concat" else node.inputs[:1]
    grids = {_grid(each) for each in sources}
    return grids.pop() if len(grids) == 1 else None


def _spread(value: ir.Value | None) -> tuple[int, ...]:
    """A shape along the first axis of more than one value, which makes a bound no single number."""
    shape = None if value is None or value.shape is None else tuple(value.shape)
    for axis, size in enumerate(shape or ()):
        if axis and isinstance(size, int) and size > 1:
            return (size, *[1] * (len(shape or ()) - axis - 1))
    return ()
