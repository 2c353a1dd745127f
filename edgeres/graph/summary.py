"""What an ONNX file holds: inputs, outputs, opset, parameters and multiply-adds by node name.

Needs the ``onnx`` package and no runtime. Weights are not unpacked, so large files are quick.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeres.errors import ModelError

if TYPE_CHECKING:
    import onnx

Shape = tuple[int | None, ...]


@dataclass(frozen=True)
class TensorSpec:
    """Name, shape and dtype of a network input or output; a dynamic dimension is ``None``."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str


@dataclass(frozen=True)
class ModelSummary:
    """What an ONNX file holds.

    Attributes:
        inputs: Graph inputs, without those that are only defaults of initializers.
        outputs: Graph outputs.
        opset: Version of the ``ai.onnx`` operator set.
        parameters: Elements of all floating-point initializers.
        macs_by_node: Multiply-adds of each Conv, ConvTranspose, Gemm and MatMul, by node name, for
            one sample.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    opset: int
    parameters: int
    macs_by_node: Mapping[str, int]

    @property
    def macs(self) -> int:
        """Multiply-adds of the whole network for one sample."""
        return sum(self.macs_by_node.values())


def summarize(path: Path) -> ModelSummary:
    """Reads an ONNX file's interface and counts its parameters and multiply-adds.

    Raises:
        ModelError: The file is missing or no ONNX model, or shapes cannot be inferred.
    """
    from onnx import TensorProto

    model = read_proto(path)
    floating = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}
    initializers = model.graph.initializer
    parameters = sum(math.prod(w.dims) for w in initializers if w.data_type in floating)
    names = {w.name for w in initializers}
    return ModelSummary(
        inputs=tuple(_spec(i) for i in model.graph.input if i.name not in names),
        outputs=tuple(_spec(o) for o in model.graph.output),
        opset=next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0),
        parameters=parameters,
        macs_by_node=_count(model, path),
    )


def node_macs(path: Path) -> dict[str, int]:
    """Multiply-adds for one sample by node name, for each Conv, ConvTranspose, Gemm and MatMul.

    A node without a name goes by its first output's name.

    Raises:
        ModelError: The file is missing or no ONNX model, or shapes cannot be inferred.
    """
    return _count(read_proto(path), path)


def sample_shapes(path: Path) -> dict[str, Shape]:
    """Shapes of all tensors and weights for a batch of one, by name.

    Raises:
        ModelError: The file is missing or no ONNX model, or shapes cannot be inferred.
    """
    return _shapes_of_one_sample(read_proto(path), path)


def node_ops(path: Path) -> dict[str, str]:
    """Op type of every node by its name; a node without one goes by its first output's name.

    Raises:
        ModelError: The file is missing or no ONNX model.
    """
    nodes = read_proto(path).graph.node
    return {node.name or node.output[0]: node.op_type for node in nodes}


def read_proto(path: Path) -> onnx.ModelProto:
    """Reads an ONNX file, but no data that lies beside it.

    Raises:
        ModelError: The file is missing, no ONNX model, or one without nodes.
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    model = onnx.ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except (OSError, DecodeError) as error:
        raise ModelError(
            f"Expected an ONNX model at {path}, got: {error}.", hint="Check the path and the file."
        ) from error
    if not model.graph.node:
        raise ModelError(f"Expected an ONNX model at {path}, got a file with no graph.")
    return model


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    import onnx

    tensor = value.type.tensor_type
    try:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    except KeyError as error:
        raise ModelError(
            f"Expected a known element type of {value.name!r}, got number {tensor.elem_type}.",
            hint="The file is damaged; export the model again.",
        ) from error
    return TensorSpec(value.name, _dims(value), dtype)


def _dims(value: onnx.ValueInfoProto) -> Shape:
    dims = value.type.tensor_type.shape.dim
    return tuple(d.dim_value if d.HasField("dim_value") else None for d in dims)


def _count(model: onnx.ModelProto, path: Path) -> dict[str, int]:
    shapes = _shapes_of_one_sample(model, path)
    counts: dict[str, int] = {}
    for node in model.graph.node:
        if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
            continue
        name = node.name or node.output[0]
        data, weight = (_known(shapes, i, name, path) for i in node.input[:2])
        output = _known(shapes, node.output[0], name, path)
        transposed = any(a.name == "transA" and a.i for a in node.attribute)
        counts[name] = _macs(node.op_type, data, weight, output, transposed=transposed)
    return counts


def _macs(
    op_type: str,
    data: Sequence[int],
    weight: Sequence[int],
    output: Sequence[int],
    *,
    transposed: bool,
) -> int:
    """Multiply-adds: elements of the output times products per element (or the reverse)."""
    if op_type == "Conv":  # weight (C_out, C_in / group, kH, kW)
        return math.prod(output) * math.prod(weight[1:])
    if op_type == "ConvTranspose":  # weight (C_in, C_out / group, kH, kW)
        return math.prod(data) * math.prod(weight[1:])
    return math.prod(output) * data[0 if transposed else -1]


def _known(shapes: Mapping[str, Shape], tensor: str, node: str, path: Path) -> tuple[int, ...]:
    shape = shapes.get(tensor)
    if shape is None or None in shape:
        raise ModelError(
            f"The shape of '{tensor}' at node '{node}' in {path} cannot be inferred.",
            hint="Give the model a fixed height, width and channel count.",
        )
    return tuple(d for d in shape if d is not None)


def _shapes_of_one_sample(model: onnx.ModelProto, path: Path) -> dict[str, Shape]:
    """Shapes of all tensors with every batch dimension set to 1."""
    import onnx

    light = onnx.ModelProto()
    light.CopyFrom(model)
    del light.graph.value_info[:]
    for weight in light.graph.initializer:
        if len(weight.dims) > 1:  # inference reads values of shape and axes vectors only
            weight.ClearField("raw_data")
            weight.ClearField("float_data")
    for node in light.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            node.domain = ""  # ONNX Runtime's own have the same shapes, which inference lacks
    names = {w.name for w in light.graph.initializer}
    for value in light.graph.input:
        if value.name not in names and value.type.tensor_type.shape.dim:
            value.type.tensor_type.shape.dim[0].dim_value = 1
    for value in light.graph.output:
        value.type.tensor_type.ClearField("shape")
    try:
        inferred = onnx.shape_inference.infer_shapes(light, strict_mode=True, data_prop=True)
    except Exception as error:  # the C++ side raises several types
        raise ModelError(f"Shape inference of {path} failed: {error}.") from error
    graph = inferred.graph
    values = [*graph.input, *graph.value_info, *graph.output]
    shapes: dict[str, Shape] = {v.name: _dims(v) for v in values}
    return shapes | {w.name: tuple(w.dims) for w in graph.initializer}
