"""Small residual networks in ONNX, plain and with Q/DQ as TensorRT wants it, for these tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper


@dataclass
class Net:
    """A network under construction, and afterwards with its parts open to tampering."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    shape: tuple[int, int, int] = (3, 32, 32)
    classes: int = 10
    batch: int | str = "N"
    opset: int = 20

    def add(self, op: str, inputs: list[str], name: str, **attributes: object) -> str:
        output = "logits" if name == "fc" else f"{name}_out"
        self.nodes.append(helper.make_node(op, inputs, [output], name=name, **attributes))
        return output

    def node(self, name: str) -> onnx.NodeProto:
        return next(node for node in self.nodes if node.name == name)

    def model(self) -> onnx.ModelProto:
        floats = TensorProto.FLOAT
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info("input", floats, [self.batch, *self.shape])],
            [helper.make_tensor_value_info("logits", floats, [self.batch, self.classes])],
            [numpy_helper.from_array(array, name) for name, array in self.constants.items()],
        )
        opset = [helper.make_opsetid("", self.opset)]
        return helper.make_model(graph, opset_imports=opset, ir_version=10)


def residual_net(
    *,
    stem: str = "cifar",
    widths: tuple[int, ...] = (8, 16),
    blocks: tuple[int, ...] = (1, 1),
    shape: tuple[int, int, int] = (3, 16, 16),
    pool: str = "GlobalAveragePool",
    batch: int | str = "N",
) -> Net:
    """A float residual network in the form that export/ gives: Conv with bias, no batch norm."""
    random = np.random.default_rng(1)
    net = Net(shape=shape, batch=batch)

    def conv(x: str, inputs: int, outputs: int, kernel: int, stride: int, name: str) -> str:
        scale = np.sqrt(2 / (inputs * kernel * kernel))
        weight = random.standard_normal((outputs, inputs, kernel, kernel)) * scale
        net.constants[f"{name}.weight"] = weight.astype(np.float32)
        net.constants[f"{name}.bias"] = random.standard_normal(outputs).astype(np.float32)
        spatial = {
            "kernel_shape": [kernel] * 2,
            "strides": [stride] * 2,
            "pads": [kernel // 2] * 4,
        }
        return net.add("Conv", [x, f"{name}.weight", f"{name}.bias"], name, **spatial)

    kernel, stride = (7, 2) if stem == "imagenet" else (3, 1)
    x = net.add("Relu", [conv("input", shape[0], widths[0], kernel, stride, "conv1")], "relu")
    if stem == "imagenet":
        window = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4}
        x = net.add("MaxPool", [x], "maxpool", **window)
    channels = widths[0]
    for stage, (width, depth) in enumerate(zip(widths, blocks, strict=True), start=1):
        for block in range(depth):
            stride = 2 if stage > 1 and block == 0 else 1
            name = f"layer{stage}.{block}"
            y = conv(x, channels, width, 3, stride, f"{name}.conv1")
            y = net.add("Relu", [y], f"{name}.relu1")
            y = conv(y, width, width, 3, 1, f"{name}.conv2")
            if stride != 1 or channels != width:
                x = conv(x, channels, width, 1, stride, f"{name}.downsample")
            x = net.add("Relu", [net.add("Add", [y, x], f"{name}.add")], f"{name}.relu2")
            channels = width
    if pool == "ReduceMean":
        net.constants["axes"] = np.array([2, 3], np.int64)
        x = net.add("ReduceMean", [x, "axes"], "avgpool", keepdims=0)
    else:
        x = net.add("Flatten", [net.add("GlobalAveragePool", [x], "avgpool")], "flatten")
    weight = random.standard_normal((net.classes, channels)) * 0.2
    net.constants["fc.weight"] = weight.astype(np.float32)
    net.constants["fc.bias"] = np.zeros(net.classes, np.float32)
    net.add("Gemm", [x, "fc.weight", "fc.bias"], "fc", transB=1)
    return net


def with_qdq(
    net: Net,
    *,
    residual: str = "skip",
    axes: dict[str, int] | None = None,
    scales: dict[str, float] | None = None,
) -> Net:
    """Q/DQ in TensorRT's placement; ``axes`` plants a wrong weight axis by node name."""
    quantized = Net(shape=net.shape, classes=net.classes, batch=net.batch, opset=net.opset)
    constants = quantized.constants
    constants.update(net.constants)
    done: dict[str, str] = {}

    def activation(x: str) -> str:
        if x not in done:
            constants[f"{x}_scale"] = np.float32((scales or {}).get(x, 0.05))
            constants[f"{x}_zp"] = np.int8(0)
            quantizer = [f"{x}_scale", f"{x}_zp"]
            q = quantized.add("QuantizeLinear", [x, *quantizer], f"{x}_q")
            done[x] = quantized.add("DequantizeLinear", [q, *quantizer], f"{x}_dq")
        return done[x]

    def weights(name: str, axis: int) -> str:
        weight = constants.pop(name)
        others = tuple(index for index in range(weight.ndim) if index != axis)
        scale = (np.abs(weight).max(axis=others, keepdims=True) / 127).astype(np.float32)
        constants[f"{name}_int8"] = np.rint(weight / scale).astype(np.int8)
        constants[f"{name}_scale"] = scale.ravel()
        constants[f"{name}_zp"] = np.zeros(scale.size, np.int8)
        inputs = [f"{name}_int8", f"{name}_scale", f"{name}_zp"]
        return quantized.add("DequantizeLinear", inputs, f"{name}_dq", axis=axis)

    for node in net.nodes:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        if copy.op_type in {"Conv", "Gemm"}:
            axis = (axes or {}).get(copy.name, 0)
            copy.input[0] = activation(copy.input[0])
            copy.input[1] = weights(copy.input[1], axis)
        elif copy.op_type == "Add":
            copy.input[1] = activation(copy.input[1])
            if residual == "both":
                copy.input[0] = activation(copy.input[0])
        elif copy.op_type in {"GlobalAveragePool", "ReduceMean"}:
            copy.input[0] = activation(copy.input[0])
        quantized.nodes.append(copy)
    return quantized


@pytest.fixture(scope="session")
def float_net() -> Callable[..., Net]:
    return residual_net


@pytest.fixture(scope="session")
def qdq_net() -> Callable[..., Net]:
    """``qdq_net(**of residual_net, qdq={**of with_qdq})``."""

    def make(*, qdq: dict[str, object] | None = None, **of_net: object) -> Net:
        return with_qdq(residual_net(**of_net), **(qdq or {}))  # type: ignore[arg-type]

    return make


def quantized_conv(dimensions: int, *, axis: int = 0, channels: int = 16) -> onnx.ModelProto:
    """One quantized Conv over 1, 2 or 3 dimensions whose weight scales run along ``axis``."""
    random = np.random.default_rng(0)
    shape = (channels, channels, *[3] * dimensions)
    constants = {
        "scale": np.float32(0.05),
        "zero": np.int8(0),
        "weight": random.integers(-127, 128, shape).astype(np.int8),
        "weight_scale": random.uniform(0.001, 0.01, shape[axis]).astype(np.float32),
        "weight_zero": np.zeros(shape[axis], np.int8),
    }
    pads = {"kernel_shape": [3] * dimensions, "pads": [1] * 2 * dimensions}
    weight = ["weight", "weight_scale", "weight_zero"]
    nodes = [
        helper.make_node("QuantizeLinear", ["input", "scale", "zero"], ["q"], "q"),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["dq"], "dq"),
        helper.make_node("DequantizeLinear", weight, ["weight_dq"], "weight_dq", axis=axis),
        helper.make_node("Conv", ["dq", "weight_dq"], ["sums"], "conv", **pads),
        helper.make_node("Relu", ["sums"], ["logits"], "relu"),
    ]
    image = [2, channels, *[8] * dimensions]
    floats = TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("input", floats, image)],
        [helper.make_tensor_value_info("logits", floats, image)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.fixture(scope="session")
def qdq_conv() -> Callable[..., onnx.ModelProto]:
    return quantized_conv
