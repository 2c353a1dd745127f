"""One FP32 network from a foreign one, whatever numbers its exporter stored and computed in.

Files from elsewhere hold float16 (a GPU's export), bfloat16 (a trainer's) or float64 (NumPy's
preprocessing), in whole or in part, and take 8-bit pixels. Float16 and bfloat16 weights are float32
numbers already; float64 ones are rounded once.

Rules, for every tensor, attribute and declared type of a model without functions and subgraphs:

1. FLOAT16, BFLOAT16 and DOUBLE become FLOAT: weights, constants, ``Cast`` and ``dtype`` targets,
   the graph's inputs and outputs.
2. An image input of whole numbers becomes FLOAT: float32 holds them exactly. The ``Cast`` behind it
   changes nothing then.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

OTHER_FLOATS = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE})
WHOLE_NUMBERS = frozenset(
    {
        TensorProto.UINT8,
        TensorProto.UINT16,
        TensorProto.UINT32,
        TensorProto.INT16,
        TensorProto.INT32,
        TensorProto.INT64,
    }
)
"""Types that hold every 8-bit pixel."""
_TARGETS = {"Cast": "to", "EyeLike": "dtype", "SequenceEmpty": "dtype"}


def in_float32(model: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """A copy of a model that holds and computes float32 only.

    Args:
        model: Without functions and subgraphs, all data inside.

    Returns:
        The copy, and the names of the other float types that were found, in lower case.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    found: set[int] = set()
    for tensor in graph.initializer:
        found.add(_rounded(tensor))
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                found.add(_rounded(attribute.t))
            for tensor in attribute.tensors:
                found.add(_rounded(tensor))
            if _TARGETS.get(node.op_type) == attribute.name and attribute.i in OTHER_FLOATS:
                found.add(attribute.i)
                attribute.i = TensorProto.FLOAT
    del graph.value_info[:]
    weights = {tensor.name for tensor in graph.initializer}
    for value in (*graph.input, *graph.output):
        kind = value.type.tensor_type
        image = value in graph.input and value.name not in weights
        if kind.elem_type in OTHER_FLOATS:
            found.add(kind.elem_type)
            kind.elem_type = TensorProto.FLOAT
        elif image and kind.elem_type in WHOLE_NUMBERS:
            kind.elem_type = TensorProto.FLOAT
    names = (TensorProto.DataType.Name(code).lower() for code in sorted(found - {0}))
    return copy, tuple(names)


def _rounded(tensor: TensorProto) -> int:
    """Makes a tensor of another float type FLOAT, in place; gives the type that it had, or 0."""
    had = tensor.data_type
    if had not in OTHER_FLOATS:
        return 0
    name = tensor.name
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite, as a Cast does
        values = numpy_helper.to_array(tensor).astype(np.float32)
    tensor.CopyFrom(numpy_helper.from_array(values, name))
    return had
