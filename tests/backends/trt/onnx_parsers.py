"""What the ONNX parsers of TensorRT take, read from their public source, as checks of a file.

Each check of 8.6 is one thing that onnx-tensorrt's branch 8.6-GA does (8.5-GA does the same): the
table of operators is ``docs/operators.md``, the rest ``builtin_op_importers.cpp``
(``QuantDequantLinearHelper``, ``Squeeze``) and ``onnx2trt_utils.cpp`` (``convMultiInput``,
``getKernelParams``, ``reduceTensor``). Of 10 there is the table of its branch 10.1-GA, and for 11
that of 10.15, the newest that could be read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

NEWEST_OPSET = {"8.6": 17, "10": 20, "11": 24}
_TABLES = {
    "8.6": "onnx_tensorrt_8_6.txt",
    "10": "onnx_tensorrt_10_1.txt",
    "11": "onnx_tensorrt_10_15.txt",
}
_QUANTIZERS = {"QuantizeLinear", "DequantizeLinear"}


def operators(version: str = "8.6") -> dict[str, frozenset[str]]:
    """Supported operators, each with its limits."""
    lines = (Path(__file__).parents[1] / _TABLES[version]).read_text().splitlines()
    rows = [line.split() for line in lines if not line.startswith("#")]
    return {name: frozenset(",".join(limits).split(",")) - {""} for name, _, *limits in rows}


def complaints(model: onnx.ModelProto) -> list[str]:
    """What the parser refuses or misreads, one line each; empty for a file that it reads right."""
    return [*table_complaints(model, "8.6"), *_complaints(model)]


def table_complaints(model: onnx.ModelProto, version: str) -> list[str]:
    """What a version's own table of operators and opsets does not allow."""
    constants = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    shapes = _shapes(model)
    known = operators(version)
    opset = next(item.version for item in model.opset_import if item.domain == "")
    found = [f"opset {opset}"] if opset > NEWEST_OPSET[version] else []
    for node in model.graph.node:
        if node.op_type not in known:
            found.append(f"{node.name}: operator {node.op_type}")
            continue
        broken = [_broken(limit, node, constants, shapes) for limit in known[node.op_type]]
        found += [f"{node.name}: {text}" for text in broken if text]
    return found


def _complaints(model: onnx.ModelProto) -> Iterator[str]:
    graph = model.graph
    constants = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    for node in graph.node:
        attributes = {item.name: item for item in node.attribute}
        if node.op_type in _QUANTIZERS:
            yield from _quantizer(node, constants)
        if node.op_type.startswith("Reduce") and node.op_type != "ReduceSum" and node.input[1:]:
            yield f"{node.name}: axes as an input are not read"
        computed = node.op_type == "Conv" and node.input[1] not in constants
        if computed and "kernel_shape" not in attributes:
            yield f"{node.name}: computed weights without kernel_shape"


def _broken(
    limit: str,
    node: onnx.NodeProto,
    constants: dict[str, np.ndarray],
    shapes: dict[str, int],
) -> str:
    if limit == "two-or-three-dimensional":
        rank = shapes.get(node.input[0], 0)
        return "" if rank in (4, 5) else f"pools over {rank - 2} dimensions"
    if limit == "no-indices":
        return "Indices are asked for" if len(node.output) > 1 and node.output[1] else ""
    if limit in {"constant-axes", "constant-axis"}:
        index = 3 if node.op_type == "Slice" else 1
        given = len(node.input) > index and node.input[index]
        return "computed axes" if given and node.input[index] not in constants else ""
    if limit == "zero-point-0":
        zero = constants.get(node.input[2]) if len(node.input) > 2 else None
        return "zero point is not 0" if zero is not None and np.any(zero) else ""
    if limit == "unit-dilations":
        dilations = [list(item.ints) for item in node.attribute if item.name == "dilations"]
        return "" if all(set(each) <= {1} for each in dilations) else "dilations"
    return f"limit {limit} is not looked at"


def _quantizer(node: onnx.NodeProto, constants: dict[str, np.ndarray]) -> Iterator[str]:
    if len(node.input) != 3:
        yield f"{node.name}: no zero point"
        return
    scale, zero = (constants.get(name) for name in node.input[1:])
    if scale is None or zero is None:
        yield f"{node.name}: computed scale or zero point"
        return
    if scale.dtype != np.float32:
        yield f"{node.name}: the bytes of a {scale.dtype} scale are read as float32"
    if not (scale.astype(np.float64) > 0).all():
        yield f"{node.name}: scales must be positive"
    if zero.dtype != np.int8:
        yield f"{node.name}: zero point is {zero.dtype}"
    if zero.size != scale.size:
        yield f"{node.name}: {scale.size} scales and {zero.size} zero points"
    if node.op_type == "DequantizeLinear" and node.input[0] in constants:
        yield f"{node.name}: weights are stored as integers"


def _shapes(model: onnx.ModelProto) -> dict[str, int]:
    """Number of dimensions by tensor name."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = (*graph.input, *graph.value_info, *graph.output)
    return {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in values
        if value.type.tensor_type.elem_type != TensorProto.UNDEFINED
    }
