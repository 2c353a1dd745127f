"""A ``Conv`` of one pixel whose answer is then flattened becomes ``Flatten`` and ``Gemm``.

Some networks end in a 1x1 convolution behind the mean over the image, where others have a fully
connected layer. ONNX Runtime runs a ``Conv`` in INT8 only where its output is quantized too, which
the class scores are not; a ``Gemm`` it does.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeres.exporting.views import VIEWS
from edgeres.graph.edit import (
    NodePass,
    add_constant,
    bypass,
    constant,
    data_input,
    input_at,
    insert_before,
    only_user,
    replace,
    static_shape,
)


class PointLayers(NodePass):
    """Applies the rule of this module; run it after what folds into layers."""

    def visit(self, node: ir.Node) -> bool:
        """Rewrites one Conv of ``(N, C, 1, 1)`` to ``(N, K, 1, 1)`` and the view behind it."""
        if node.op_type != "Conv":
            return False
        weight, bias = constant(input_at(node, 1)), constant(input_at(node, 2))
        shape, made = static_shape(data_input(node)), static_shape(node.outputs[0])
        view = only_user(node.outputs[0])
        if weight is None or shape is None or made is None or view is None:
            return False
        outputs, pixels = weight.shape[0], (1,) * (len(shape) - 2)
        is_point = shape[2:] == pixels and tuple(weight.shape) == (outputs, shape[1], *pixels)
        flattens = view.op_type in VIEWS and static_shape(view.outputs[0]) == (shape[0], outputs)
        unknown_bias = bias is None and input_at(node, 2) is not None
        if not is_point or made[2:] != pixels or not flattens or unknown_bias:
            return False
        flat = insert_before(node, "Flatten", [data_input(node)], shape[:2], {"axis": 1})
        inputs = [
            flat,
            add_constant(node, "weight", weight.reshape(outputs, shape[1])),
            add_constant(node, "bias", np.zeros(outputs, np.float32) if bias is None else bias),
        ]
        dense = replace(node, "Gemm", inputs, {"transB": 1})
        dense.outputs[0].shape = ir.Shape((shape[0], outputs))
        return bypass(view, dense.outputs[0])
