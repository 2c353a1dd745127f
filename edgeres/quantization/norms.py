"""Norms that follow no layer: the depthwise ``Conv`` of one tap that the normal form makes of them.

In INT8 such a convolution is one more rounding and one more pass over the image. ONNX Runtime needs
that: a Mul and an Add in float cost it two conversions more. OpenVINO computes factor and shift in
float together with the QuantizeLinear behind them, so its rules write them as they were. A norm
with a factor that is not positive stays a convolution: see ``factor_barrier``.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeres.graph.layers import is_norm, layer_of, node_name
from edgeres.quantization.qdq import add_initializer


def write_norms(graph: ir.Graph) -> None:
    """Writes every norm that reads and gives float as a Mul and an Add, in place."""
    for node in list(graph):
        if not is_norm(node):
            continue
        layer = layer_of(node)
        assert layer is not None
        shape = (len(layer.weight), 1, 1)
        name, old = node_name(node), node.outputs[0]
        factor = add_initializer(graph, f"{name}.factor", layer.weight.reshape(shape))
        bias = np.zeros(len(layer.weight), np.float32) if layer.bias is None else layer.bias
        shift = add_initializer(graph, f"{name}.shift", bias.reshape(shape).astype(np.float32))
        between = ir.Value(name=f"{name}.scaled", shape=old.shape, type=old.type)
        output = ir.Value(shape=old.shape, type=old.type)
        new = [
            ir.node("Mul", [node.inputs[0], factor], outputs=[between], name=f"{name}.factor"),
            ir.node("Add", [between, shift], outputs=[output], name=name),
        ]
        ir.convenience.replace_nodes_and_values(graph, node, [node], new, [old], [output])
