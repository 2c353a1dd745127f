"""Models that are made to be timed: one layer several times over, and a network made narrower.

Times do not depend on what weights and images hold, so weights are noise, or the first channels of
a trained network; activation ranges are assumed. Everything else is as in a real conversion: the
same quantizer writes the same Q/DQ for the same rule set. Nothing made here can be mistaken for a
result: its answers mean nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeres.calibrators.base import ChosenRange
from edgeres.errors import ModelError, one_line
from edgeres.graph.layers import activations, load_model, non_negative, value_name
from edgeres.layer_latency.shapes import ADD, RELU, LayerShape
from edgeres.quantization.table import CalibrationTable, TensorStats
from edgeres.system.files import file_sha256, write_atomic

_OPSET = 20
_IR_VERSION = 10
_LOW, _HIGH = -4.0, 4.0  # of noise with deviation 1
Widths = Mapping[str, tuple[int, int]]
"""Input and output channels by layer name."""


def write_copies(
    shape: LayerShape, inputs: int, outputs: int, copies: int, out: Path, *, batch: int = 1
) -> None:
    """Writes an FP32 model that runs one layer several times on the same input.

    Copies with a residual sum add the output of the copy before, so their outputs need only one
    end; the others end in a pooling that looks at one pixel. The difference between the times of
    two numbers of copies is then that of the layer with its tail.

    Args:
        shape: Of the layer.
        inputs: Input channels.
        outputs: Output channels.
        copies: At least 1; with a residual sum one more convolution is run, to have a first
            output.
        out: The file.
        batch: Images in a run.
    """
    noise = np.random.default_rng(0)
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []
    ends: list[str] = []
    before = ""
    summed = ADD in shape.tail
    for index in range(copies + summed):
        name = f"copy{index}"
        columns = (shape.unit or inputs, *shape.kernel) if shape.op == "Conv" else (inputs,)
        scale = 1 / sqrt(float(np.prod(columns)))
        values = (noise.standard_normal((outputs, *columns)) * scale).astype(np.float32)
        bias = noise.standard_normal(outputs).astype(np.float32)
        weights.append(numpy_helper.from_array(values, f"{name}.weight"))
        weights.append(numpy_helper.from_array(bias, f"{name}.bias"))
        nodes += _layer(shape, name, inputs, before if summed else "")
        before = nodes[-1].output[0]
        if not summed or index == copies:
            ends.append(f"{name}.end")
            if shape.op == "Conv":
                nodes.append(_one_pixel(before, name))
            else:
                nodes[-1].output[0] = ends[-1]
    if shape.op == "Conv" and shape.strides != (1, 1):
        # In a network the input has other readers too; alone, a stride may be moved before it.
        nodes.append(_one_pixel("input", "input"))
    image = (batch, inputs, *shape.size)
    end = (batch, outputs, 1, 1) if shape.op == "Conv" else (batch, outputs)
    graph = helper.make_graph(
        nodes,
        "timed",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, image)],
        [
            *(helper.make_tensor_value_info(name, TensorProto.FLOAT, end) for name in ends),
            *_input_end(nodes, (batch, inputs, 1, 1)),
        ],
        weights,
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION
    )
    write_atomic(out, model.SerializeToString(deterministic=True))


def write_narrowed(onnx_path: Path, widths: Widths, out: Path) -> None:
    """Writes a network with fewer channels: of every layer the first ones stay.

    Args:
        onnx_path: FP32 network in normal form.
        widths: Input and output channels of every layer that narrows, fitting together.
        out: The file.

    Raises:
        ModelError: The widths do not fit together in this network.
    """
    model = onnx.load(onnx_path)
    graph = model.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.name not in widths:
            continue
        inputs, outputs = widths[node.name]
        _narrow(node, stored, inputs, outputs)
    del graph.value_info[:]
    try:
        onnx.shape_inference.infer_shapes(model, strict_mode=True, check_type=True, data_prop=True)
    except Exception as error:  # the C++ side raises several types
        raise ModelError(
            f"{onnx_path}: the network cannot be made narrower: {one_line(error)}.",
            hint="Its latency cannot be predicted; use allocation: global.",
        ) from error
    write_atomic(out, model.SerializeToString(deterministic=True))


def assumed_ranges(onnx_path: Path, *, signed_input: bool = True) -> CalibrationTable:
    """A calibration table for timing: every tensor spans a few deviations of noise.

    Args:
        onnx_path: FP32 model.
        signed_input: False for a model whose input stands for what a rectifier leaves.

    Raises:
        ModelError: The model cannot be read.
    """
    rectified = ChosenRange(0.0, _HIGH, _HIGH)
    signed = ChosenRange(_LOW, _HIGH, _HIGH)
    tensors = {}
    for value in activations(load_model(onnx_path).graph):
        as_input = value.producer() is None and not signed_input
        value_range = rectified if as_input or non_negative(value) else signed
        tensors[value_name(value)] = TensorStats(
            (), value_range.low, value_range.high, 0.0, {"output": value_range}
        )
    return CalibrationTable(file_sha256(onnx_path), 1, "output", tensors)


def _layer(shape: LayerShape, name: str, inputs: int, skip: str) -> list[onnx.NodeProto]:
    """The nodes of one copy; ``skip`` is what its residual sum adds, if it does."""
    parameters = [f"{name}.weight", f"{name}.bias"]
    if shape.op != "Conv":
        flat = helper.make_node("Flatten", ["input"], [f"{name}.flat"], name=f"{name}.flatten")
        product = helper.make_node(
            "Gemm", [f"{name}.flat", *parameters], [f"{name}.out"], name=name, transB=1
        )
        return [flat, product]
    nodes = [
        helper.make_node(
            "Conv",
            ["input", *parameters],
            [f"{name}.out"],
            name=name,
            kernel_shape=shape.kernel,
            strides=shape.strides,
            pads=shape.pads,
            group=inputs // shape.unit if shape.unit else 1,
        )
    ]
    for number, step in enumerate(shape.tail):
        last = nodes[-1].output[0]
        result, label = f"{name}.tail{number}", f"{name}.{step.split()[0]}{number}"
        if step == ADD and skip:
            nodes.append(helper.make_node("Add", [last, skip], [result], name=label))
        elif step == RELU:
            nodes.append(helper.make_node("Relu", [last], [result], name=label))
        elif step.startswith("maxpool"):
            kernel, stride, pad = map(int, step.split()[1].split("/"))
            nodes.append(
                helper.make_node(
                    "MaxPool",
                    [last],
                    [result],
                    name=label,
                    kernel_shape=[kernel] * 2,
                    strides=[stride] * 2,
                    pads=[pad] * 4,
                )
            )
    return nodes


def _input_end(nodes: list[onnx.NodeProto], shape: tuple[int, ...]) -> list[onnx.ValueInfoProto]:
    """The output of the input's further reader, where it has one."""
    ends = [node.output[0] for node in nodes if node.input[0] == "input" == node.name.split(".")[0]]
    return [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ends]


def _one_pixel(value: str, name: str) -> onnx.NodeProto:
    """A pooling whose window is one pixel and whose stride leaves one output."""
    return helper.make_node(
        "MaxPool",
        [value],
        [f"{name}.end"],
        name=f"{name}.pixel",
        kernel_shape=[1, 1],
        strides=[4096, 4096],
    )


def _narrow(
    node: onnx.NodeProto, stored: Mapping[str, onnx.TensorProto], inputs: int, outputs: int
) -> None:
    weight = numpy_helper.to_array(stored[node.input[1]])
    rows_first = node.op_type == "Conv" or any(a.name == "transB" and a.i for a in node.attribute)
    for attribute in node.attribute:
        if attribute.name == "group" and attribute.i > 1:
            unit = weight.shape[0] // attribute.i
            attribute.i = outputs // unit
            inputs = weight.shape[1]  # a group keeps its own
    narrowed = weight[:outputs, :inputs] if rows_first else weight[:inputs, :outputs]
    _store(stored[node.input[1]], narrowed)
    if len(node.input) > 2 and node.input[2]:
        _store(stored[node.input[2]], numpy_helper.to_array(stored[node.input[2]])[:outputs])


def _store(
    tensor: onnx.TensorProto, values: np.ndarray[tuple[int, ...], np.dtype[np.generic]]
) -> None:
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), tensor.name))
