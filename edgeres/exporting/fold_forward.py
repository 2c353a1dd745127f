"""Folds a product with one number into the layers behind it.

Networks without norms scale the image of each block (NFNets), and dropout of old frameworks is a
factor at inference. Behind a Relu no layer can take such a factor in, but those that read it can:
``W * (c x) = (c W) * x``. In float64, rounded once, as in :mod:`edgeres.exporting.fold_affine`.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeres.graph.edit import NodePass, add_constant, bypass, constant, input_at

#: What a factor commutes with: views and means.
_LINEAR = frozenset(
    {"Flatten", "Reshape", "Squeeze", "Identity", "AveragePool", "GlobalAveragePool"}
)
_LAYERS = frozenset({"Conv", "Gemm"})


class FoldForward(NodePass):
    """Folds ``Mul`` and ``Div`` by one number where only layers read the result."""

    def visit(self, node: ir.Node) -> bool:
        """Folds one product into all layers that read it."""
        found = _factor(node)
        layers = None if found is None else _layers_behind(node.outputs[0])
        if found is None or not layers:
            return False
        image, factor = found
        for layer in layers:
            weight = np.asarray(constant(input_at(layer, 1)), np.float64)
            folded = add_constant(layer, "weight", (weight * factor).astype(np.float32))
            layer.replace_input_with(1, folded)
        return bypass(node, image)


def _factor(node: ir.Node) -> tuple[ir.Value, float] | None:
    """The tensor that a node multiplies with one number, and that number."""
    for index in {"Mul": (1, 0), "Div": (1,)}.get(node.op_type, ()):
        number, image = constant(input_at(node, index)), input_at(node, 1 - index)
        if number is None or image is None or number.size != 1 or constant(image) is not None:
            continue
        value = float(number.reshape(()))
        if number.dtype.kind != "f" or not np.isfinite(value) or value == 0.0:
            return None
        rank = None if image.shape is None else len(image.shape)
        if rank is None or number.ndim > rank:
            return None
        return image, 1.0 / value if node.op_type == "Div" else value
    return None


def _layers_behind(value: ir.Value) -> list[ir.Node] | None:
    """The layers that read a tensor, its views or means; ``None`` where something else does."""
    if value.is_graph_output():
        return None
    layers: list[ir.Node] = []
    for use in value.uses():
        if use.idx == 0 and use.node.op_type in _LINEAR:
            further = _layers_behind(use.node.outputs[0])
            if further is None:
                return None
            layers += further
        elif use.idx == 0 and _is_layer(use.node):
            layers.append(use.node)
        else:
            return None
    return layers


def _is_layer(node: ir.Node) -> bool:
    return node.op_type in _LAYERS and constant(input_at(node, 1)) is not None
