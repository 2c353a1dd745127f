"""Asks an engine, by running it, whether its INT8 sums overflow, and which products share a sum.

On x86 without VNNI one instruction (``vpmaddubsw``) adds two products uint8 * int8 into an int16,
and 2 * 255 * 127 does not fit: the engine answers with a clipped sum and says nothing. Whether
that happens depends on the CPU, the runtime and its version, so it is measured with tiny models of
one op each, whose right answer is known, and never concluded from the name of the CPU.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgeres.backends.base import Array, Backend, BuildConfig
from edgeres.errors import UsageError
from edgeres.system.temporary import temporary_folder

if TYPE_CHECKING:
    import onnx

Position = tuple[int, int, int]
"""Input channel (within its group), kernel row and kernel column of a weight."""

_ACTIVATION, _WEIGHT = 255, 127
_MAX_POSITIONS = 160
_OPSET, _IR_VERSION = 20, 10


@dataclass(frozen=True)
class ProbeShape:
    """The op whose sums are looked at.

    Attributes:
        op: ``Conv`` or ``Gemm``.
        channels: Input channels of the convolution, or length of the sums of the Gemm.
        kernel: Height and width of the convolution's kernel.
        groups: Groups of the convolution.
    """

    op: Literal["Conv", "Gemm"]
    channels: int
    kernel: int = 1
    groups: int = 1


@dataclass(frozen=True)
class _Layer:
    """One op with int8 weights ``(O, C / groups, k, k)`` and the scale of its uint8 output."""

    shape: ProbeShape
    weights: NDArray[np.int8]
    output_scale: float


@cache
def saturates(backend: Backend, device: str = "cpu") -> bool:
    """Whether sums overflow on this device: 1x1 and 3x3 convolutions and a Gemm of 64 channels.

    All activations are 255 and all weights 127, so an engine that clips pairs of products to int16
    answers with about half of the right sum. Asked once a process for each backend and device.

    Args:
        backend: A backend that can execute here.
        device: One of its devices.

    Raises:
        BackendMissingError: The runtime or the device is not here.
    """
    shapes = (
        ProbeShape("Conv", channels=64),
        ProbeShape("Conv", channels=64, kernel=3),
        ProbeShape("Gemm", channels=64),
    )
    layers = []
    for shape in shapes:
        products = shape.channels * shape.kernel**2
        weights = np.full((16, shape.channels, shape.kernel, shape.kernel), _WEIGHT, np.int8)
        layers.append(_Layer(shape, weights, products * _ACTIVATION * _WEIGHT / 250))
    answers = _run(backend, device, layers)
    # 250 steps are the right answer and about 126 a clipped one.
    return any(
        float(answer.min()) < 190 * layer.output_scale
        for layer, answer in zip(layers, answers, strict=True)
    )


def shared_products(
    backend: Backend, shape: ProbeShape, device: str = "cpu"
) -> tuple[tuple[Position, Position], ...]:
    """Reads off which two weights' products share an int16: one output channel for each pair.

    In each output channel two weights are 127 and the others 0; the sum is clipped exactly where
    the two share an int16. Empty where nothing overflows.

    Args:
        backend: A backend that can execute here.
        shape: The op; at most 160 weights for each output.
        device: One of the backend's devices.

    Returns:
        Pairs of weight positions ``(channel, row, column)``, in order; a Gemm has row and column 0.

    Raises:
        BackendMissingError: The runtime or the device is not here.
        UsageError: Too many weights, or groups that do not divide the channels.
    """
    channels, rest = divmod(shape.channels, shape.groups)
    count = channels * shape.kernel**2
    if rest or not 2 <= count <= _MAX_POSITIONS:
        raise UsageError(
            f"{shape}: expected 2 to {_MAX_POSITIONS} weights for each output, got {count}.",
            hint="Probe fewer channels or a smaller kernel.",
        )
    pairs = list(itertools.combinations(range(count), 2))
    weights = np.zeros((len(pairs), count), np.int8)
    for row, (first, second) in enumerate(pairs):
        weights[row, [first, second]] = _WEIGHT
    shaped = np.tile(weights, (shape.groups, 1)).reshape(-1, channels, shape.kernel, shape.kernel)
    right = 2 * _ACTIVATION * _WEIGHT
    (answer,) = _run(backend, device, [_Layer(shape, shaped, right / 250)])
    sums = answer.reshape(len(pairs) * shape.groups, -1)[: len(pairs)].min(axis=1)
    places = list(np.ndindex(channels, shape.kernel, shape.kernel))
    return tuple(
        (places[first], places[second])
        for (first, second), got in zip(pairs, sums, strict=True)
        if got < 0.75 * right
    )


def _run(backend: Backend, device: str, layers: Sequence[_Layer]) -> list[Array]:
    """Outputs of a model with one branch for each layer, fed with activations of 255."""
    config = BuildConfig(device=device, threads=1)
    with temporary_folder() as folder:
        source = folder / "probe.onnx"
        source.write_bytes(_model(layers).SerializeToString())
        out = folder / f"engine{backend.engine_suffix}"
        engine = backend.build(source, out, config)
        with backend.load(engine, config) as runner:
            feeds = {
                f"x{index}": np.full(_input_sizes(layer.shape), _ACTIVATION, np.float32)
                for index, layer in enumerate(layers)
            }
            outputs = runner.infer(feeds)
    return [outputs[f"y{index}"] for index in range(len(layers))]


def _input_sizes(shape: ProbeShape) -> tuple[int, ...]:
    size = shape.kernel + 2
    return (1, shape.channels, size, size) if shape.op == "Conv" else (1, shape.channels)


def _model(layers: Sequence[_Layer]) -> onnx.ModelProto:
    """One branch ``Q, DQ, op, Q, DQ`` for each layer; all scales 1 but the output's."""
    from onnx import TensorProto, helper

    nodes, inputs, outputs, constants = [], [], [], []
    for index, layer in enumerate(layers):
        x, y = f"x{index}", f"y{index}"
        branch_nodes, branch_constants = _branch(index, layer)
        nodes += branch_nodes
        constants += branch_constants
        sizes = _input_sizes(layer.shape)
        result = [1, layer.weights.shape[0], *([3, 3] if layer.shape.op == "Conv" else [])]
        inputs.append(helper.make_tensor_value_info(x, TensorProto.FLOAT, sizes))
        outputs.append(helper.make_tensor_value_info(y, TensorProto.FLOAT, result))
    graph = helper.make_graph(nodes, "probe", inputs, outputs, constants)
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION
    )


def _branch(index: int, layer: _Layer) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    from onnx import helper, numpy_helper

    def name(part: str) -> str:
        return f"{part}{index}"

    def node(op: str, inputs: Sequence[str], output: str, **attributes: Any) -> onnx.NodeProto:
        names = [name(part) for part in inputs]
        return helper.make_node(
            op, names, [name(output)], name=name(f"{output}_node"), **attributes
        )

    weights = layer.weights
    channels = len(weights)
    is_conv = layer.shape.op == "Conv"
    constants: dict[str, Array] = {
        "one": np.ones((), np.float32),
        "zero": np.zeros((), np.uint8),
        "w": weights if is_conv else weights.reshape(channels, -1),
        "w_scale": np.ones(channels, np.float32),
        "w_zero": np.zeros(channels, np.int8),
        "y_scale": np.asarray(layer.output_scale, np.float32),
    }
    op = (
        node("Conv", ["x_float", "w_float"], "sum", group=layer.shape.groups)
        if is_conv
        else node("Gemm", ["x_float", "w_float"], "sum", transB=1)
    )
    nodes = [
        node("QuantizeLinear", ["x", "one", "zero"], "x_int"),
        node("DequantizeLinear", ["x_int", "one", "zero"], "x_float"),
        node("DequantizeLinear", ["w", "w_scale", "w_zero"], "w_float", axis=0),
        op,
        node("QuantizeLinear", ["sum", "y_scale", "zero"], "y_int"),
        node("DequantizeLinear", ["y_int", "y_scale", "zero"], "y"),
    ]
    return nodes, [numpy_helper.from_array(value, name(key)) for key, value in constants.items()]
