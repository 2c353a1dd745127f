"""Where a network's additions and activations went: into the convolutions, or into kernels apart.

A residual block is fast where its last convolution adds the skip and applies the Relu while it
writes its own result. An addition that runs apart reads and writes the whole tensor once more. A
Relu that a quantizer's clamp makes superfluous is in no layer at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgeres.backends.base import LayerInfo

_PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_NO_WORK = frozenset({None, "Cast", "Identity", "Constant"})


@dataclass(frozen=True)
class Fusions:
    """How many Add and Relu nodes share a layer with other work, as the engine tells.

    Attributes:
        adds: Add nodes of the network.
        adds_in_products: Those computed by the layer of a convolution or matrix product.
        adds_in_kernels: Those computed in a layer together with other nodes, none a product.
        relus: Relu nodes of the network.
        relus_in_products: Those computed by the layer of a convolution or matrix product.
        conv_add_relu: Layers that are a convolution, an addition and a Relu in one.
    """

    adds: int = 0
    adds_in_products: int = 0
    adds_in_kernels: int = 0
    relus: int = 0
    relus_in_products: int = 0
    conv_add_relu: int = 0


def count_fusions(layers: Sequence[LayerInfo], op_types: Mapping[str, str]) -> Fusions:
    """Counts fusions in an engine.

    Args:
        layers: The engine's layers; each convolution is named by the layer that multiplies.
        op_types: ONNX op type by node name, of the file that the engine was built from.
    """
    adds = {name for name, op in op_types.items() if op == "Add"}
    relus = {name for name, op in op_types.items() if op == "Relu"}
    in_products: set[str] = set()
    in_kernels: set[str] = set()
    conv_add_relu = 0
    for layer in layers:
        ops = [op_types.get(node) for node in layer.nodes]
        if _PRODUCTS.intersection(ops):
            in_products.update(layer.nodes)
            conv_add_relu += {"Conv", "Add", "Relu"} <= set(ops)
        elif sum(op not in _NO_WORK for op in ops) > 1:
            in_kernels.update(layer.nodes)
    return Fusions(
        adds=len(adds),
        adds_in_products=len(adds & in_products),
        adds_in_kernels=len((adds & in_kernels) - in_products),
        relus=len(relus),
        relus_in_products=len(relus & in_products),
        conv_add_relu=conv_add_relu,
    )
