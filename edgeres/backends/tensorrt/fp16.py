"""Makes everything in a Q/DQ graph that is not INT8 float16, with the numbers kept safe.

Since TensorRT 11 the types in the graph are the precision, so "INT8, the rest in FP16" is a graph
of float16 tensors between Q/DQ. A scale then is float16 too (ONNX opset 19 and up), which holds
nothing below 2**-24 and only 11 significant bits:

1. A scale of at least 2**-14 is rounded to the nearest float16: at most 2**-11 off, 0.06 of a
   quantization step at the edge of the range, so the integers stay.
2. A smaller scale is rounded **up** to a multiple of 2**-24 and the integers are computed anew, so
   that nothing underflows to a zero scale and nothing clips.

The network's inputs and outputs stay float32, behind a Cast, unless they are asked to be float16.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableSequence, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgeres.backends.tensorrt.graph import DQ, Graph, Q, free_name, nested_node, taken_names
from edgeres.errors import ModelError, one_line

_LEAST_OPSET = 19
_LARGEST = float(np.finfo(np.float16).max)
_SMALLEST_NORMAL = 2.0**-14
_STEP = 2.0**-24
_OPTION = "Keep rest=float32."
_FLOAT32 = "_float32"


def half_scale(scale: NDArray[np.float32]) -> NDArray[np.float16]:
    """The float16 scale that stands for a float32 one; see the module's rules.

    Args:
        scale: Positive scales of any shape, float32.
    """
    wide = np.asarray(scale, np.float64)
    up = np.maximum(np.ceil(wide / _STEP), 1) * _STEP
    chosen: NDArray[np.float16] = np.where(wide < _SMALLEST_NORMAL, up, wide).astype(np.float16)
    return chosen


def requantize(
    integers: NDArray[np.int8],
    scale: NDArray[np.float32],
    half: NDArray[np.float16],
    axis: int,
) -> NDArray[np.int8]:
    """Integers that with the float16 scale stand for what they stood for with the float32 one.

    Args:
        integers: Quantized weights, int8.
        scale: Their scale: a scalar, or one for each channel along ``axis``.
        half: The float16 scale, of the same shape.
        axis: Axis of the channels.
    """
    quotient = np.asarray(scale, np.float64) / np.asarray(half, np.float64)
    quotient = np.where(np.asarray(scale, np.float64) < _SMALLEST_NORMAL, quotient, 1.0)
    if quotient.ndim:
        shape = [1] * integers.ndim
        shape[axis] = quotient.size
        quotient = quotient.reshape(shape)
    return np.clip(np.rint(integers * quotient), -127, 127).astype(np.int8)


def to_half(graph: Graph, out: Path, *, io: str = "float32") -> None:
    """Writes the graph with float16 instead of float32, INT8 and the node names unchanged.

    Args:
        graph: A linted Q/DQ or float graph.
        out: Where the ONNX file goes; weights lie inside.
        io: Type of the network's float inputs and outputs, ``float32`` or ``float16``.

    Raises:
        ModelError: An opset without float16 scales, a number or a quantized range beyond
            float16's largest (65504), a graph inside a node, or an operator that does not exist in
            float16.
    """
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    opset = next((item.version for item in model.opset_import if item.domain in {"", "ai.onnx"}), 0)
    if graph.is_quantized and opset < _LEAST_OPSET:
        raise ModelError(
            f"rest=float16 needs opset {_LEAST_OPSET} or later, the model has {opset}.",
            hint="Export or import it with opset 20.",
        )
    nested = nested_node(model)
    if nested is not None:
        raise ModelError(
            f"{nested}: holds a graph of its own, which rest=float16 does not reach.", hint=_OPTION
        )
    taken = taken_names(model)
    _scales(graph, model, taken)
    _keep_float32(graph, model, taken)
    _constants(graph, model)
    _types_in_nodes(model)
    if io == "float32":
        _boundaries(model, taken)
    else:
        for value in (*model.graph.input, *model.graph.output):
            if value.type.tensor_type.elem_type == TensorProto.FLOAT:
                value.type.tensor_type.elem_type = TensorProto.FLOAT16
    del model.graph.value_info[:]
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # the checker passes on whatever the C++ underneath raises
        reason = one_line(error)
        raise ModelError(f"the model has no form in float16: {reason}.", hint=_OPTION) from error
    out.write_bytes(model.SerializeToString(deterministic=True))


def _scales(graph: Graph, model: onnx.ModelProto, taken: set[str]) -> None:
    """Gives every Q and DQ a float16 scale of its own, and new integers where rule 2 asks."""
    made: dict[str, TensorProto] = {}
    names: dict[str, str] = {}
    for node in model.graph.node:
        if node.op_type not in {Q, DQ}:
            continue
        scale = graph.constants[node.input[1]].astype(np.float32)
        constant = node.input[0] in graph.constants
        top = float(scale.max()) * (1 if constant else 127)
        if top > _LARGEST:
            what = "a weight scale is" if constant else "activations reach"
            raise ModelError(f"{node.name}: {what} {top:g}, beyond float16.", hint=_OPTION)
        half = half_scale(scale)
        if node.input[1] not in names:
            names[node.input[1]] = free_name(f"{node.input[1]}_half", taken)
        name = names[node.input[1]]
        made[name] = numpy_helper.from_array(half, name)
        node.input[1] = name
        if node.op_type == DQ and constant:
            integers = graph.constants[node.input[0]]
            axis = next((int(item.i) for item in node.attribute if item.name == "axis"), 1)
            new = requantize(integers.astype(np.int8), scale, half, axis)
            if not np.array_equal(new, integers):
                name = free_name(f"{node.output[0]}_integers", taken)
                made[name] = numpy_helper.from_array(new, name)
                node.input[0] = name
    model.graph.initializer.extend(made.values())


def _keep_float32(graph: Graph, model: onnx.ModelProto, taken: set[str]) -> None:
    """Gives inputs that take float32 alone (the scales of a Resize) a constant that stays so."""
    opsets = {item.domain: item.version for item in model.opset_import}
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            array = graph.constants.get(name)
            if array is None or array.dtype != np.float32 or _takes_half(node, index, opsets):
                continue
            copy = free_name(f"{name}{_FLOAT32}", taken)
            model.graph.initializer.append(numpy_helper.from_array(array, copy))
            node.input[index] = copy


def _takes_half(node: onnx.NodeProto, index: int, opsets: Mapping[str, int]) -> bool:
    """Whether an input of an operator may be float16, by the operator's own definition."""
    try:
        schema = onnx.defs.get_schema(node.op_type, opsets.get(node.domain, 1), node.domain)
    except (onnx.defs.SchemaError, TypeError):  # a plugin of TensorRT's, or a damaged name
        return True
    formal = schema.inputs[min(index, len(schema.inputs) - 1)]
    allowed = {item.type_param_str: item.allowed_type_strs for item in schema.type_constraints}
    return "tensor(float16)" in allowed.get(formal.type_str, [formal.type_str])


def _constants(graph: Graph, model: onnx.ModelProto) -> None:
    """Float32 initializers and Constant nodes become float16; what nobody reads goes."""
    used = {name for node in model.graph.node for name in node.input}
    used.update(value.name for value in model.graph.output)
    kept = []
    for tensor in model.graph.initializer:
        if tensor.name not in used:
            continue
        if tensor.name not in graph.constants:  # made here: its type is the one that it shall have
            kept.append(tensor)
        elif tensor.data_type == TensorProto.FLOAT:
            array = _to_float16(graph.constants[tensor.name], tensor.name)
            kept.append(numpy_helper.from_array(array, tensor.name))
        elif tensor.data_location == TensorProto.EXTERNAL:
            kept.append(numpy_helper.from_array(graph.constants[tensor.name], tensor.name))
        else:
            kept.append(tensor)
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    nodes = [n for n in model.graph.node if n.op_type != "Constant" or n.output[0] in used]
    for node in nodes:
        if node.op_type != "Constant" or node.output[0] not in graph.constants:
            continue
        content = graph.constants[node.output[0]]
        if content.dtype == np.float32:
            content = _to_float16(content, node.output[0])
        del node.attribute[:]
        value = numpy_helper.from_array(content)
        node.attribute.append(helper.make_attribute("value", value))
    _set_nodes(model, nodes)


def _to_float16(array: NDArray[np.generic], name: str) -> NDArray[np.float16]:
    largest = float(np.abs(array).max(initial=0.0))
    if not largest <= _LARGEST:
        raise ModelError(f"{name}: reaches {largest:g}, beyond float16's 65504.", hint=_OPTION)
    return array.astype(np.float16)


def _types_in_nodes(model: onnx.ModelProto) -> None:
    """What spells float32 out, or means it by leaving it out, becomes float16."""
    for node in model.graph.node:
        wanted = {"Cast": "to", DQ: "output_dtype"}.get(node.op_type)
        for item in node.attribute:
            if item.name == wanted and item.i == TensorProto.FLOAT:
                item.i = TensorProto.FLOAT16
        if node.op_type == "ConstantOfShape":
            filled = [numpy_helper.to_array(item.t) for item in node.attribute]
            fill = filled[0] if filled else np.zeros(1, np.float32)
            if fill.dtype == np.float32:
                half = numpy_helper.from_array(_to_float16(fill, node.output[0]))
                del node.attribute[:]
                node.attribute.append(helper.make_attribute("value", half))


def _boundaries(model: onnx.ModelProto, taken: set[str]) -> None:
    """Casts at float32 inputs and outputs, so that callers see no difference."""
    first, last = [], []
    constants = {tensor.name for tensor in model.graph.initializer}
    for value in model.graph.input:
        if value.type.tensor_type.elem_type == TensorProto.FLOAT and value.name not in constants:
            inner = free_name(f"{value.name}_half", taken)
            for node in model.graph.node:
                _rename(node.input, value.name, inner)
            first.append(_cast(value.name, inner, TensorProto.FLOAT16, inner, taken))
    for value in model.graph.output:
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            inner = free_name(f"{value.name}_half", taken)
            for node in model.graph.node:
                _rename(node.output, value.name, inner)
                _rename(node.input, value.name, inner)
            last.append(_cast(inner, value.name, TensorProto.FLOAT, inner, taken))
    _set_nodes(model, [*first, *model.graph.node, *last])


def _cast(source: str, result: str, to: int, label: str, taken: set[str]) -> onnx.NodeProto:
    name = free_name(f"{label}_cast", taken)
    return helper.make_node("Cast", [source], [result], name=name, to=to)


def _set_nodes(model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto]) -> None:
    """Makes these the nodes of a model; some may be its own, which protobuf frees on the way."""
    copies = []
    for node in nodes:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copies.append(copy)
    del model.graph.node[:]
    model.graph.node.extend(copies)


def _rename(names: MutableSequence[str], old: str, new: str) -> None:
    for index, name in enumerate(names):
        if name == old:
            names[index] = new
