"""Networks whose input holds pixels of 0 to 255, and the tensors that are made of those alone."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeres.graph.edit import constant, input_at

MIDDLE = 128.0
"""What is taken from a pixel before a convolution reads it: signed 8 bits hold the rest."""

_MARK, _PIXELS = "edgeres.input", "pixels"


def mark(model: ir.Model) -> None:
    """Writes into a model that its input holds pixels, as whole numbers."""
    model.metadata_props[_MARK] = _PIXELS


def takes_pixels(model: ir.Model) -> bool:
    """Whether a model says so."""
    return model.metadata_props.get(_MARK) == _PIXELS


def pixel_step(value: ir.Value) -> float | None:
    """The factor of a tensor that is ``factor * (pixel - 128)``; ``None`` for any other."""
    scaled = value.producer()
    if scaled is None or scaled.op_type != "Mul":
        return None
    step, shifted = constant(input_at(scaled, 1)), scaled.inputs[0]
    moved = None if shifted is None else shifted.producer()
    if step is None or step.size != 1 or moved is None or moved.op_type != "Sub":
        return None
    middle = constant(input_at(moved, 1))
    if middle is None or middle.size != 1 or float(np.reshape(middle, ())) != MIDDLE:
        return None
    return float(np.reshape(step, ())) if is_image(moved.inputs[0]) else None


def is_image(value: ir.Value | None) -> bool:
    """Whether a tensor is the image alone, arranged in another way or padded."""
    if value is None:
        return False
    node = value.producer()
    if node is None:
        return value.is_graph_input()
    if node.op_type == "Concat":
        return all(is_image(part) for part in node.inputs)
    return node.op_type in ("Transpose", "Split", "Pad", "Gather") and is_image(node.inputs[0])
