"""A batch above one that is written into a network, taken out: it can be seen for one image then.

Exporters write the batch of their example into the shapes that the network reads. What stands there
at first place, and is the batch of the input, is the batch.

Rules, for a model whose image input has a batch ``B`` above 1:

1. ``Reshape`` to ``(B, ...)`` or a multiple of ``B`` leaves it open; where another dimension is
   open, it copies the batch from its input (0 in ONNX's Reshape), or the other becomes the number
   that it is.
2. ``Expand``, ``ConstantOfShape`` and ``Resize`` to ``(B, ...)`` are for one image.
3. A constant ``(B, ...)`` that is the same for each image is there once, where ``Concat`` or an
   elementwise node reads it.

A batch of 1 needs no such help.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeres.exporting.fold_constants import FoldConstants
from edgeres.exporting.passes import run_pass
from edgeres.graph.shapes import set_batch

_SHAPES = {"Reshape": 1, "Expand": 1, "ConstantOfShape": 0, "Resize": 3}
_READERS = frozenset({"Add", "Concat", "Div", "Max", "Min", "Mul", "Sub", "Where"})


def free_fixed_batch(model: ir.Model) -> int | None:
    """Applies the rules of this module in place.

    Returns:
        The batch that the model insists on, or ``None``.
    """
    batch = next((next(iter(v.shape)) for v in model.graph.inputs if v.shape), None)
    if not isinstance(batch, int):
        return None
    if batch == 1:
        return batch
    set_batch(model, batch)
    run_pass(FoldConstants(), model)
    for node in model.graph:
        place = _SHAPES.get(node.op_type)
        if place is not None:
            target = _constant(node, place)
            first = None if target is None else _first(node.op_type, target, batch)
            if target is not None and first is None and node.op_type == "Reshape":
                target = _closed(node, target)
                first = _first(node.op_type, target, batch)
            if target is not None and first is not None:
                _replace(node, place, np.array([first, *target[1:]], np.int64))
        elif node.op_type in _READERS:
            for index in range(len(node.inputs)):
                block = _constant(node, index)
                if block is not None and _is_repeated(block, batch):
                    _replace(node, index, block[:1])
    return batch


def _closed(node: ir.Node, target: NDArray[np.generic]) -> NDArray[np.generic]:
    """The shape that a Reshape gives, as numbers, where it is known."""
    shape = node.outputs[0].shape
    return target if shape is None or not shape.is_static() else np.array(shape.numpy(), np.int64)


def _first(op_type: str, target: NDArray[np.generic], batch: int) -> int | None:
    """What stands in place of the batch in a shape; ``None`` where the shape has none."""
    known = [int(size) for size in target]
    if len(known) < 2:  # one dimension: no image
        return None
    if op_type != "Reshape":
        return 1 if known[0] == batch else None
    if known[0] < batch or known[0] % batch:
        return None
    if -1 not in known:
        return -1
    return 0 if known[0] == batch else None


def _constant(node: ir.Node, index: int) -> NDArray[np.generic] | None:
    value = node.inputs[index] if index < len(node.inputs) else None
    return None if value is None or value.const_value is None else value.const_value.numpy()


def _is_repeated(block: NDArray[np.generic], batch: int) -> bool:
    return bool(block.ndim > 1 and len(block) == batch and (block == block[:1]).all())


def _replace(node: ir.Node, index: int, array: NDArray[np.generic]) -> None:
    assert node.graph is not None
    known = ir.Node("", "Constant", [], attributes=[ir.AttrTensor("value", ir.tensor(array))])
    node.graph.insert_before(node, known)
    node.replace_input_with(index, known.outputs[0])
