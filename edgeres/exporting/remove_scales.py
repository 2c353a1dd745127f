"""A network that another tool has quantized, as the float network behind it: its scales go.

What was rounded stays rounded: weights are what their integers stand for. Activations are not
rounded any more. Rules:

1. Q and DQ of an activation are left out, integers of a weight or a bias become floats.
2. Operators on integers (``QLinearConv``, ``QGemm`` and their like) become those on floats.
3. An unsigned result whose zero point is 0 cannot be negative: tools leave a Relu out for that, so
   one takes its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgeres.errors import ModelError
from edgeres.graph.edit import QUANTIZED

Array = NDArray[Any]
_ONE_INPUT = {
    "QLinearAveragePool": "AveragePool",
    "QLinearGlobalAveragePool": "GlobalAveragePool",
    "QLinearLeakyRelu": "LeakyRelu",
    "QLinearSigmoid": "Sigmoid",
}
_TWO_INPUTS = {"QLinearAdd": "Add", "QLinearMul": "Mul", "QLinearMatMul": "MatMul"}
_NOT_NEGATIVE = frozenset({"Relu", "Sigmoid", "Softmax"})
_OWN_ATTRIBUTES = frozenset({"channels_last", "saturate", "output_dtype"})


def remove_scales(model: onnx.ModelProto) -> onnx.ModelProto:
    """The float network of a quantized one; a model without quantized operators comes back as is.

    Raises:
        ModelError: It is quantized in a way that is not known here, such as at run time.
    """
    if not any(node.op_type in QUANTIZED for node in model.graph.node):
        return model
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = _Graph(made)
    for node in model.graph.node:
        graph.take(node)
    graph.finish(made)
    return made


def name_of(node: onnx.NodeProto) -> str:
    """A node's name, or that of its output: the same with scales and without."""
    return node.name or node.output[0]


@dataclass
class _Graph:
    """The network as far as it is written anew."""

    model: onnx.ModelProto
    constants: dict[str, Array] = field(default_factory=dict)
    now: dict[str, str] = field(default_factory=dict)  # tensor there to tensor here
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    makers: dict[str, str] = field(default_factory=dict)
    floats: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.constants = {t.name: numpy_helper.to_array(t) for t in self.model.graph.initializer}

    def take(self, node: onnx.NodeProto) -> None:
        """Writes one node anew."""
        kind, inputs = node.op_type, list(node.input)
        if kind == "Constant" and node.attribute and node.attribute[0].name == "value":
            self.constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        if kind == "QuantizeLinear":
            self._quantize(node)
        elif kind == "DequantizeLinear":
            if inputs[0] in self.constants:
                value = self._float(inputs[0], inputs[1], _at(inputs, 2), _axis(node))
                self.now[node.output[0]] = self._constant(node.output[0], value)
            else:
                self.now[node.output[0]] = self._name(inputs[0])
        elif kind.startswith("Q") or kind in QUANTIZED:
            self._on_integers(node, inputs)
        else:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.name = name_of(node)
            copy.input[:] = [self._name(name) for name in inputs]
            self.nodes.append(copy)
            self.makers |= dict.fromkeys(node.output, kind)

    def _on_integers(self, node: onnx.NodeProto, inputs: Sequence[str]) -> None:
        """Rule 2."""
        kind = node.op_type
        if kind == "QLinearConv":
            operands = [self._operand(inputs, 0), self._operand(inputs, 3, axis=0)]
            if _at(inputs, 8):
                operands.append(self._bias(node, inputs[8], inputs[1], inputs[4]))
            self._write(node, "Conv", operands, inputs[7])
        elif kind == "QGemm":
            axis = 0 if _attribute(node, "transB") else 1
            operands = [self._operand(inputs, 0), self._operand(inputs, 3, axis=axis)]
            if _at(inputs, 6):
                operands.append(self._bias(node, inputs[6], inputs[1], inputs[4]))
            self._write(node, "Gemm", operands, _at(inputs, 8))
        elif kind in _TWO_INPUTS:
            operands = [self._operand(inputs, 0), self._operand(inputs, 3, axis=1)]
            self._write(node, _TWO_INPUTS[kind], operands, inputs[7])
        elif kind in _ONE_INPUT and not _attribute(node, "channels_last"):
            self._write(node, _ONE_INPUT[kind], [self._name(inputs[0])], _at(inputs, 4))
        elif kind == "QLinearConcat":
            parts = [self._operand(inputs, place) for place in range(2, len(inputs), 3)]
            self._write(node, "Concat", parts, inputs[1])
        else:
            raise ModelError(
                f"The scales of {kind} at '{node.name or node.output[0]}' cannot be removed.",
                hint="Give the float32 model that it was made from.",
            )

    def finish(self, model: onnx.ModelProto) -> None:
        """Puts the nodes and the weights into the model."""
        graph = model.graph
        for output in graph.output:
            if self._name(output.name) != output.name:
                self.nodes.append(
                    helper.make_node("Identity", [self._name(output.name)], [output.name])
                )
        del graph.node[:]
        del graph.value_info[:]
        graph.node.extend(self.nodes)
        graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in self.floats.items())
        used = {name for node in self.nodes for name in node.input}
        kept = [tensor for tensor in graph.initializer if tensor.name in used]
        del graph.initializer[:]
        graph.initializer.extend(kept)

    def _quantize(self, node: onnx.NodeProto) -> None:
        source, out = node.input[0], node.output[0]
        name = self._name(source)
        if source in self.constants or name in self.floats:
            values = self.floats.get(name, self.constants.get(source))
            scale, zero = self._scale(node.input[1], _at(list(node.input), 2))
            assert values is not None
            scale, zero = (_along(part, values.ndim, _axis(node)) for part in (scale, zero))
            limits = np.iinfo(self.constants[node.input[2]].dtype if len(node.input) > 2 else "u1")
            integers = np.clip(np.round(values / scale) + zero, limits.min, limits.max)
            self.constants[out] = integers.astype(limits.dtype)
            return
        self.now[out] = self._clipped(name, out, _at(list(node.input), 2))

    def _write(self, node: onnx.NodeProto, kind: str, inputs: Sequence[str], zero: str) -> None:
        out = node.output[0]
        made = helper.make_node(kind, list(inputs), [f"{out}.float"], name=name_of(node))
        made.attribute.extend(a for a in node.attribute if a.name not in _OWN_ATTRIBUTES)
        self.nodes.append(made)
        self.makers[f"{out}.float"] = kind
        self.now[out] = self._clipped(f"{out}.float", out, zero)

    def _clipped(self, name: str, out: str, zero: str) -> str:
        """Rule 3."""
        point = self.constants.get(zero)
        bottom = point is None if not zero else point is not None and not point.any()
        unsigned = point is None or point.dtype.kind == "u"
        if not (bottom and unsigned and zero) or self.makers.get(name) in _NOT_NEGATIVE:
            return name
        self.nodes.append(helper.make_node("Relu", [name], [f"{out}.relu"], name=f"{out}.relu"))
        self.makers[f"{out}.relu"] = "Relu"
        return f"{out}.relu"

    def _name(self, name: str) -> str:
        return self.now.get(name, name)

    def _operand(self, inputs: Sequence[str], place: int, axis: int = 0) -> str:
        """An input on integers as one on floats: a constant by its scale."""
        if inputs[place] not in self.constants:
            return self._name(inputs[place])
        value = self._float(inputs[place], inputs[place + 1], inputs[place + 2], axis)
        return self._constant(f"{inputs[place]}.float", value)

    def _bias(self, node: onnx.NodeProto, name: str, first: str, second: str) -> str:
        scale = self.constants[first].astype(np.float64) * self.constants[second]
        value = (self.constants[name] * scale).astype(np.float32)
        return self._constant(f"{node.output[0]}.bias", value)

    def _float(self, name: str, scale: str, zero: str, axis: int) -> NDArray[np.float32]:
        values = self.constants[name].astype(np.float64)
        factor, offset = (_along(p, values.ndim, axis) for p in self._scale(scale, zero))
        result: NDArray[np.float32] = ((values - offset) * factor).astype(np.float32)
        return result

    def _scale(self, scale: str, zero: str) -> tuple[Array, Array]:
        if scale not in self.constants or (zero and zero not in self.constants):
            raise ModelError(
                f"The scale '{scale}' is computed at run time and cannot be removed.",
                hint="Give the float32 model that it was made from.",
            )
        factor = self.constants[scale].astype(np.float64)
        return factor, self.constants[zero].astype(np.float64) if zero else np.zeros(())

    def _constant(self, name: str, value: NDArray[np.float32]) -> str:
        self.floats[name] = value
        return name


def _at(inputs: Sequence[str], place: int) -> str:
    return inputs[place] if place < len(inputs) else ""


def _attribute(node: onnx.NodeProto, name: str) -> int:
    return next((int(a.i) for a in node.attribute if a.name == name), 0)


def _axis(node: onnx.NodeProto) -> int:
    if _attribute(node, "block_size"):
        raise ModelError(
            f"The scales of '{node.name or node.output[0]}' are of blocks and cannot be removed.",
            hint="Give the float32 model that it was made from.",
        )
    return next((int(a.i) for a in node.attribute if a.name == "axis"), 1)


def _along(part: Array, rank: int, axis: int) -> Array:
    """A scale of each channel, shaped so that it meets its axis."""
    if part.size == 1:
        return part.reshape(())
    shape = [1] * rank
    shape[axis] = -1
    return part.reshape(shape)
