"""Questions about an FP32 graph in normal form; nothing here changes the graph."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeres.errors import ModelError, one_line
from edgeres.graph.edit import QUANTIZED

#: Ops that only move or select values: the scale of the output is the scale of the input.
PASS_THROUGH = frozenset(
    {"MaxPool", "Flatten", "Reshape", "Identity", "Dropout", "Squeeze", "Unsqueeze", "Transpose"}
)
#: Ops that engines fold into the convolution or the Add before them.
RECTIFIERS = frozenset({"Relu", "Clip"})
#: Ops with a constant weight.
WEIGHTED = frozenset({"Conv", "Gemm", "MatMul"})

_FLOAT = ir.DataType.FLOAT


@dataclass(frozen=True)
class Layer:
    """A Conv, Gemm or MatMul whose weight is constant.

    Attributes:
        node: The ONNX node.
        weight: ``(M, K) float32``, one row per output channel; K runs over (input channel of the
            group, kernel row, kernel column) for a Conv.
        bias: ``(M,) float32``, or ``None`` where the node has none.
        kernel: Spatial kernel shape, ``()`` for Gemm and MatMul.
        groups: Groups of a Conv, else 1.
        channel_axis: Axis of the output channels in the stored weight.
        stored_shape: Shape of the stored weight.
    """

    node: ir.Node
    weight: NDArray[np.float32]
    bias: NDArray[np.float32] | None
    kernel: tuple[int, ...]
    groups: int
    channel_axis: int
    stored_shape: tuple[int, ...]

    @property
    def name(self) -> str:
        """Name of the node."""
        return node_name(self.node)

    @property
    def takes_bias(self) -> bool:
        """True where the op has a bias input."""
        return self.node.op_type != "MatMul"

    def stored(self, matrix: NDArray[np.generic]) -> NDArray[np.generic]:
        """Brings an ``(M, K)`` matrix into the shape and order of the stored weight."""
        if self.channel_axis == 1:
            return np.ascontiguousarray(matrix.T)
        return np.ascontiguousarray(matrix.reshape(self.stored_shape))


def load_model(path: Path, *, may_be_quantized: bool = False) -> ir.Model:
    """Reads an ONNX file with all of its weights and checks that it can be quantized.

    Args:
        path: The ONNX file.
        may_be_quantized: Lets a Q/DQ model through, for those who only look at it.

    Raises:
        ModelError: The file is missing or no ONNX, a weight holds NaN or Inf, names are not
            unique, there is not exactly one image input, or it is quantized already.
    """
    if not path.is_file():
        raise ModelError(f"there is no ONNX file {path}.", hint="Check the path.")
    try:
        model = ir.load(path)
        ir.external_data.load_to_model(model)
        _unpack_weights(model)
    except Exception as error:  # protobuf and onnx-ir raise many types for a bad file
        raise ModelError(
            f"{path} is not a readable ONNX model: {one_line(error)}", hint="Export it again."
        ) from error
    _check(model, path, may_be_quantized=may_be_quantized)
    return model


def _unpack_weights(model: ir.Model) -> None:
    """Makes arrays of float weights once: a tensor of protobuf copies its bytes at each look."""
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if isinstance(tensor, ir.serde.TensorProtoTensor) and tensor.dtype == _FLOAT:
            value.const_value = ir.Tensor(tensor.numpy(), dtype=_FLOAT, name=tensor.name)


def inputs(graph: ir.Graph) -> tuple[ir.Value, ...]:
    """Graph inputs that are not initializers."""
    return tuple(value for value in graph.inputs if not value.is_initializer())


def node_name(node: ir.Node) -> str:
    """Name of a node; :func:`load_model` has checked that it has one."""
    return node.name or ""


def value_name(value: ir.Value) -> str:
    """Name of a value; every value of a checked model has one."""
    return value.name or ""


def constant(value: ir.Value | None) -> NDArray[np.generic] | None:
    """Content of an initializer or of a Constant node; ``None`` for an activation."""
    if value is None:
        return None
    if value.const_value is not None:
        return value.const_value.numpy()
    producer = value.producer()
    if producer is not None and producer.op_type == "Constant" and "value" in producer.attributes:
        return producer.attributes["value"].as_tensor().numpy()
    return None


def is_activation(value: ir.Value | None) -> bool:
    """True for a float tensor that is computed from the image, or is the image."""
    if value is None or constant(value) is not None:
        return False
    return value.dtype is None or value.dtype == _FLOAT


def layer_of(node: ir.Node) -> Layer | None:
    """The weighted layer that a node is, or ``None`` where it is none that can be INT8."""
    if node.op_type not in WEIGHTED or node.domain not in ("", "ai.onnx"):
        return None
    weight = constant(node.inputs[1])
    if weight is None or weight.dtype != np.float32 or not is_activation(node.inputs[0]):
        return None
    bias_value = node.inputs[2] if len(node.inputs) > 2 else None
    bias = constant(bias_value)
    if bias_value is not None and (bias is None or bias.dtype != np.float32):
        return None
    if node.op_type == "Conv":
        return Layer(
            node=node,
            weight=np.ascontiguousarray(weight.reshape(weight.shape[0], -1), np.float32),
            bias=None if bias is None else bias.astype(np.float32).reshape(-1),
            kernel=tuple(weight.shape[2:]),
            groups=node.attributes.get_int("group", 1),
            channel_axis=0,
            stored_shape=tuple(weight.shape),
        )
    return _dense(node, weight.astype(np.float32), bias)


def multiplies_activations(node: ir.Node) -> bool:
    """True for a MatMul of a float graph whose inputs are both computed from the image."""
    return node.op_type == "MatMul" and all(is_activation(value) for value in node.inputs)


def _dense(
    node: ir.Node, weight: NDArray[np.float32], bias: NDArray[np.generic] | None
) -> Layer | None:
    gemm = node.op_type == "Gemm"
    plain = (
        weight.ndim == 2
        and node.attributes.get_int("transA", 0) == 0
        and node.attributes.get_float("alpha", 1.0) == 1.0
        and (bias is None or node.attributes.get_float("beta", 1.0) == 1.0)
    )
    if not plain:
        return None
    rows_are_outputs = gemm and node.attributes.get_int("transB", 0) == 1
    matrix = weight if rows_are_outputs else weight.T
    if bias is not None:
        bias = bias.reshape(-1)
        if bias.size not in (1, matrix.shape[0]):
            return None
        bias = np.broadcast_to(bias, (matrix.shape[0],))
    return Layer(
        node=node,
        weight=np.ascontiguousarray(matrix),
        bias=None if bias is None else np.ascontiguousarray(bias, np.float32),
        kernel=(),
        groups=1,
        channel_axis=0 if rows_are_outputs else 1,
        stored_shape=tuple(weight.shape),
    )


def is_norm(node: ir.Node) -> bool:
    """True for a Conv that only scales and shifts each channel, by factors above 0.

    The normal form makes one of a norm that follows no layer.
    """
    layer = layer_of(node)
    return (
        layer is not None
        and layer.node.op_type == "Conv"
        and layer.groups == layer.weight.shape[0]
        and layer.weight.shape[1] == 1
        and len(layer.kernel) == 2
        and set(node.attributes.get_ints("strides", (1, 1))) == {1}
        and not any(node.attributes.get_ints("pads", ()))
        and bool((layer.weight > 0).all())
    )


def consumers(value: ir.Value) -> tuple[tuple[ir.Node, int], ...]:
    """Nodes that read a value and the index of the input that does, in a fixed order."""
    uses = [(use.node, use.idx) for use in value.uses()]
    return tuple(sorted(uses, key=lambda use: (node_name(use[0]), use[1])))


def only_rectified(value: ir.Value) -> bool:
    """True where nothing but one Relu or Clip reads the value, so that no engine stores it."""
    uses = consumers(value)
    return len(uses) == 1 and not value.is_graph_output() and uses[0][0].op_type in RECTIFIERS


def only_moves(node: ir.Node) -> bool:
    """True for an op that only moves or selects values: one scale fits both sides.

    A ``Pad`` is one where it adds zeros, which every scale represents, or values that are there.
    """
    if node.op_type != "Pad":
        return node.op_type in PASS_THROUGH
    filled = node.inputs[2] if len(node.inputs) > 2 else None
    value = constant(filled)
    return filled is None or (value is not None and not np.any(value))


def non_negative(value: ir.Value) -> bool:
    """True where the graph alone says that a tensor has no negative values."""
    node = value.producer()
    if node is None:
        return False
    if node.op_type == "Relu":
        return True
    if only_moves(node) or node.op_type in ("GlobalAveragePool", "AveragePool"):
        source = node.inputs[0]
        return source is not None and non_negative(source)
    return False


def activations(graph: ir.Graph) -> Iterator[ir.Value]:
    """Image inputs and outputs of all nodes, in topological order."""
    yield from (value for value in inputs(graph) if is_activation(value))
    for node in graph:
        yield from (value for value in node.outputs if value.name and is_activation(value))


def _check(model: ir.Model, path: Path, *, may_be_quantized: bool) -> None:
    graph = model.graph
    images = inputs(graph)
    kinds = (_FLOAT, ir.DataType.UINT8) if may_be_quantized else (_FLOAT,)
    if len(images) != 1 or images[0].dtype not in kinds:
        found = ", ".join(f"{value.name} ({value.dtype})" for value in images) or "none"
        raise ModelError(
            f"{path} needs exactly one float32 image input; it has {found}.",
            hint="Export the classifier alone, with float input.",
        )
    seen: set[str] = set()
    for node in graph:
        if node.op_type in QUANTIZED and not may_be_quantized:
            raise ModelError(
                f"{path} is quantized already ({node.op_type} at node {node.name}).",
                hint="Give the FP32 model. `edgeres build` takes a quantized file as it is.",
            )
        if not node.name or node.name in seen:
            raise ModelError(
                f"{path}: node name {node.name!r} ({node.op_type}) is missing or not unique.",
                hint="Bring the model into normal form first (`edgeres export` does it).",
            )
        seen.add(node.name)
    for name, value in graph.initializers.items():
        content = constant(value)
        if content is not None and content.dtype.kind == "f" and not np.isfinite(content).all():
            bad = int(np.size(content) - np.count_nonzero(np.isfinite(content)))
            raise ModelError(
                f"{path}: weight {name} holds {bad} NaN or Inf of {content.size} values.",
                hint="The training diverged or the file is damaged; use another checkpoint.",
            )
