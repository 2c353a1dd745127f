"""Multiply-adds of an ONNX network, node by node."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from edgeres.errors import ModelError

if TYPE_CHECKING:
    import onnx

_PRODUCTS = ("Conv", "Gemm", "MatMul")


def macs_by_node(model: Path) -> dict[str, int]:
    """Multiply-adds of one sample for each Conv, Gemm and MatMul with constant weights.

    A convolution takes one multiply-add for each output element and each weight that reaches it:
    ``prod(output[1:]) * prod(weight[1:])``; a matrix product ``prod(output[1:]) * K``. Weights may
    stand behind DequantizeLinear, so an FP32 file and its Q/DQ file give the same numbers.

    Args:
        model: ONNX file with fixed sizes apart from the batch.

    Raises:
        ModelError: The file does not parse, or a size is not known.
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        proto = onnx.load(model, load_external_data=False)
        graph = onnx.shape_inference.infer_shapes(proto, data_prop=True).graph
    except (OSError, DecodeError, onnx.shape_inference.InferenceError) as error:
        raise ModelError(
            f"{model}: expected an ONNX model, got one that cannot be read ({error}).",
            hint="Export it again.",
        ) from error
    shapes = _shapes(graph)
    weights = _weights(graph)
    macs: dict[str, int] = {}
    for node in graph.node:
        if node.op_type not in _PRODUCTS or node.input[1] not in weights:
            continue
        name = node.name or node.output[0]
        out, weight = shapes.get(node.output[0]), weights[node.input[1]]
        if out is None or None in out[1:]:
            raise ModelError(
                f"{model}: the output size of {name} ({node.op_type}) is not known.",
                hint="Fix all input sizes of the model apart from the batch.",
            )
        macs[name] = math.prod(size or 1 for size in out[1:]) * _reach(node, weight)
    return macs


def _reach(node: onnx.NodeProto, weight: tuple[int, ...]) -> int:
    """Number of weights that reach one output element."""
    if node.op_type == "Conv":
        return math.prod(weight[1:])
    if node.op_type == "MatMul":
        return weight[-2] if len(weight) > 1 else weight[0]
    transposed = any(a.name == "transB" and a.i for a in node.attribute)
    return weight[1] if transposed else weight[0]


def _weights(graph: onnx.GraphProto) -> dict[str, tuple[int, ...]]:
    """Shapes of constants by tensor name, those behind Q/DQ included."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value":
                    shapes[node.output[0]] = tuple(attribute.t.dims)
        elif node.op_type in ("QuantizeLinear", "DequantizeLinear") and node.input[0] in shapes:
            shapes[node.output[0]] = shapes[node.input[0]]
    return shapes


def _shapes(graph: onnx.GraphProto) -> dict[str, tuple[int | None, ...]]:
    shapes: dict[str, tuple[int | None, ...]] = {}
    for value in (*graph.value_info, *graph.output):
        kind = value.type.tensor_type
        if kind.HasField("shape"):
            shapes[value.name] = tuple(
                dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim
            )
    return shapes
