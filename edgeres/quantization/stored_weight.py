"""The integers of a layer's weight, in whichever form a quantized file writes them.

Two forms are in use: float operators between QuantizeLinear and DequantizeLinear, and operators on
integers (``QLinearConv``, ``MatMulInteger``, ONNX Runtime's ``QGemm``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeres.graph.layers import WEIGHTED, constant, value_name
from edgeres.quantization.pairing import pairings
from edgeres.quantization.qdq_view import DQ, scale_of
from edgeres.quantization.saturation import SaturationProof, prove

#: Integer operators: where the weight and the bias stand among their inputs.
_PLACES: dict[str, tuple[int, int | None]] = {
    "QLinearConv": (3, 8),
    "QLinearMatMul": (3, None),
    "QGemm": (3, 6),
    "ConvInteger": (1, None),
    "MatMulInteger": (1, None),
}
_SCALES = {"QLinearConv": (1, 4, 6), "QLinearMatMul": (1, 4, 6), "QGemm": (1, 4, 7)}
INTEGER_OPS = frozenset(_PLACES)


@dataclass(frozen=True)
class StoredWeight:
    """A weight as it is stored.

    Attributes:
        values: ``(M, K)`` integers, one row per output channel.
        kernel: Spatial kernel shape, ``()`` for matrix products.
        bias: ``(M,) float64`` bias in units of ``s_x * s_w``, as an INT32 accumulator takes it;
            ``None`` where there is none or the scales are not known.
    """

    values: NDArray[np.generic]
    kernel: tuple[int, ...]
    bias: NDArray[np.float64] | None

    @property
    def saturation(self) -> SaturationProof | None:
        """Bound over its pairs; ``None`` for integers that are no int8: they take another way."""
        if self.values.dtype != np.int8:
            return None
        return prove(self.values.astype(np.int8), pairings(self.values.shape[1], self.kernel))


def called(node: ir.Node) -> str:
    """A node's name, or where it has none that of its first output."""
    return node.name or value_name(node.outputs[0])


def stored_weight(node: ir.Node) -> StoredWeight | None:
    """The weight of a layer; ``None`` where it is not constant integers of the usual form."""
    if node.op_type in _PLACES:
        at, bias_at = _PLACES[node.op_type]
        content = _input(node, at)
        bias = _input(node, bias_at)
        units = None if bias is None else np.ravel(bias).astype(np.float64)
    elif node.op_type in WEIGHTED:
        content, units = _behind_dequantize(node)
    else:
        return None
    if content is None or content.dtype.kind not in "iu" or content.ndim < 2:
        return None
    conv = "Conv" in node.op_type
    rows_first = conv or node.attributes.get_int("transB", 0) == 1
    if not conv and content.ndim != 2:
        return None
    matrix = content.reshape(len(content), -1) if rows_first else content.T
    if units is not None and units.size not in (1, len(matrix)):
        units = None
    return StoredWeight(matrix, content.shape[2:] if conv else (), units)


def integer_scales(node: ir.Node) -> list[NDArray[np.float32]]:
    """All constant scales of an integer operator."""
    scales = [_input(node, index) for index in _SCALES.get(node.op_type, ())]
    return [np.asarray(scale, np.float32) for scale in scales if scale is not None and scale.size]


def _input(node: ir.Node, index: int | None) -> NDArray[np.generic] | None:
    return None if index is None or index >= len(node.inputs) else constant(node.inputs[index])


def _behind_dequantize(
    node: ir.Node,
) -> tuple[NDArray[np.generic] | None, NDArray[np.float64] | None]:
    sources = [None if value is None else value.producer() for value in node.inputs[:2]]
    data, weight = (each if each is not None and each.op_type == DQ else None for each in sources)
    if weight is None:
        return None, None
    scales = [scale_of(weight)] if data is None else [scale_of(data), scale_of(weight)]
    return constant(weight.inputs[0]), _bias_units(node, scales)


def _bias_units(node: ir.Node, scales: list[NDArray[np.float32]]) -> NDArray[np.float64] | None:
    value = node.inputs[2] if len(node.inputs) > 2 else None
    producer = None if value is None else value.producer()
    if producer is not None and producer.op_type == DQ:
        stored = constant(producer.inputs[0])
        return None if stored is None else np.ravel(stored).astype(np.float64)
    bias = constant(value)
    if bias is None or len(scales) != 2:
        return None
    unit = np.ravel(scales[0])[0].astype(np.float64) * np.ravel(scales[1]).astype(np.float64)
    flat = np.ravel(bias).astype(np.float64)
    if unit.size not in (1, flat.size) or not (unit > 0).all():
        return None
    return np.asarray(flat / unit)
