"""Asks an engine, by running it, whether its INT8 sums overflow, and which products share a sum.

On x86 without VNNI one instruction (``vpmaddubsw``) adds two products uint8 * int8 into an int16,
and 2 * 255 * 127 does not fit: the engine answers with a clipped sum and says nothing. Whether
that happens depends on the CPU, the runtime and its version, so it is measured with tiny models of
one op each, whose right answer is known, and never concluded from the name of the CPU.

On Arm without dot products two products int8 * int8 share an int16 likewise (``smlal``). They fit
for weights of -127 to 127, and not for the lowest: 2 * -128 * -128 is one more than an int16 holds.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgeres.backends.base import Array, Backend, BuildConfig, Engine
from edgeres.errors import ModelError, UsageError
from edgeres.system.temporary import temporary_folder

if TYPE_CHECKING:
    import onnx

Options = tuple[tuple[str, str], ...]
"""Options of a build, where they choose what computes: pairs of name and value."""

Position = tuple[int, int, int]
"""Input channel (within its group), kernel row and kernel column of a weight."""

_ACTIVATION, _WEIGHT = 255, 127
_LOWEST = -128
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

    @property
    def words(self) -> str:
        """As a person calls it."""
        if self.op == "Gemm":
            return "matrix products"
        depthwise = "depthwise " if self.groups > 1 else ""
        return f"{depthwise}{self.kernel}x{self.kernel} convolutions"


@dataclass(frozen=True)
class _Layer:
    """One op with int8 weights ``(O, C / groups, k, k)`` and the scale of its output.

    ``zero`` is the zero point of the activations, whose type the output has too. Each output
    channel has another bias, of a step of the output at most: without one, or with one for all,
    OpenVINO takes other kernels on Arm than for the layers of a network.
    """

    shape: ProbeShape
    weights: NDArray[np.int8]
    output_scale: float
    activation: int = _ACTIVATION
    zero: np.uint8 | np.int8 = field(default_factory=np.uint8)

    @property
    def words(self) -> str:
        """As a person calls it."""
        shifted = self.zero != np.iinfo(self.zero.dtype).min
        return "convolutions whose input has a zero point" if shifted else self.shape.words


_SHAPES = (
    ProbeShape("Conv", channels=64),
    ProbeShape("Conv", channels=64, kernel=3),
    ProbeShape("Conv", channels=64, kernel=3, groups=64),
    ProbeShape("Gemm", channels=64),
)


@cache
def saturates(backend: Backend, device: str = "cpu", options: Options = ()) -> bool:
    """Whether sums overflow on this device: 1x1, 3x3 and depthwise convolutions and a Gemm.

    All activations are 255 and all weights 127, so an engine that clips pairs of products to int16
    answers with about half of the right sum. Asked once a process for each backend and device.

    Args:
        backend: A backend that can execute here.
        device: One of its devices.
        options: Of the build.

    Raises:
        BackendMissingError: The runtime or the device is not here.
    """
    layers = [_constant(shape, _WEIGHT, _ACTIVATION, np.uint8(0)) for shape in _SHAPES]
    return _falls_short(layers, _run(backend, device, layers, options))


@cache
def wrong_lowest_weight(backend: Backend, device: str = "cpu", options: Options = ()) -> bool:
    """Whether weights of -128 give wrong sums on this device; those of -127 to 127 need not.

    The lowest activation, as uint8 with the zero point 128 and as int8, meets weights of -128 in
    the same ops as for :func:`saturates`. Types that the engine refuses are left out. Asked once a
    process for each backend and device.

    Raises:
        BackendMissingError: The runtime or the device is not here.
    """
    for zero in (np.uint8(128), np.int8(0)):
        layers = [_constant(shape, _LOWEST, _LOWEST, zero) for shape in _SHAPES]
        try:
            answers = _run(backend, device, layers, options)
        except ModelError:
            continue
        if _falls_short(layers, answers):
            return True
    return False


def float_shapes(backend: Backend, device: str = "cpu") -> tuple[str, ...]:
    """Layers that an engine leaves in float though Q/DQ stands around them, in words.

    Args:
        backend: A backend that can execute here and tells its layers.
        device: One of its devices.

    Raises:
        BackendMissingError: The runtime or the device is not here.
    """
    plain = [_constant(shape, 1, 1, np.uint8(0)) for shape in _SHAPES]
    shifted = _constant(_SHAPES[0], 1, 1, np.uint8(128))
    layers = [*plain, shifted]
    with temporary_folder() as folder:
        engine, _ = _built(backend, device, layers, folder)
        precisions: dict[str, set[str]] = {}
        for layer in backend.layers(engine):
            for node in layer.nodes:
                precisions.setdefault(node, set()).add(layer.precision)
    found = []
    for index, asked in enumerate(layers):
        told = precisions.get(f"sum_node{index}", set())
        if told and not told & {"int8", "uint8"}:
            found.append(asked.words)
    if shifted.shape.words in found and shifted.words in found:
        found.remove(shifted.words)  # which says no more
    return tuple(found)


def _constant(shape: ProbeShape, weight: int, activation: int, zero: np.uint8 | np.int8) -> _Layer:
    """A layer whose weights are all alike, and whose right answer is 250 steps."""
    channels = shape.channels // shape.groups
    outputs = shape.channels if shape.groups > 1 else 16
    weights = np.full((outputs, channels, shape.kernel, shape.kernel), weight, np.int8)
    right = channels * shape.kernel**2 * activation * weight
    return _Layer(shape, weights, right / 250, activation, zero)


def _falls_short(layers: Sequence[_Layer], answers: Sequence[Array]) -> bool:
    """Whether an answer is not 250 steps; pairs clipped to int16 make about 126 of them."""
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


def _run(
    backend: Backend, device: str, layers: Sequence[_Layer], options: Options = ()
) -> list[Array]:
    """Outputs of a model with one branch for each layer."""
    with temporary_folder() as folder:
        engine, config = _built(backend, device, layers, folder, options)
        with backend.load(engine, config) as runner:
            feeds = {
                f"x{index}": np.full(_input_sizes(layer.shape), layer.activation, np.float32)
                for index, layer in enumerate(layers)
            }
            outputs = runner.infer(feeds)
    return [outputs[f"y{index}"] for index in range(len(layers))]


def _built(
    backend: Backend,
    device: str,
    layers: Sequence[_Layer],
    folder: Path,
    options: Options = (),
) -> tuple[Engine, BuildConfig]:
    config = BuildConfig(device=device, threads=1, options=dict(options))
    source = folder / "probe.onnx"
    source.write_bytes(_model(layers).SerializeToString())
    return backend.build(source, folder / f"engine{backend.engine_suffix}", config), config


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
        "zero": np.asarray(layer.zero),
        "y_zero": np.asarray(np.iinfo(layer.zero.dtype).min, layer.zero.dtype),
        "w": weights if is_conv else weights.reshape(channels, -1),
        "w_scale": np.ones(channels, np.float32),
        "w_zero": np.zeros(channels, np.int8),
        "y_scale": np.asarray(layer.output_scale, np.float32),
        "b": np.linspace(-1, 1, channels, dtype=np.float32) * np.float32(layer.output_scale),
    }
    read = ["x_float", "w_float", "b"]
    op = (
        node("Conv", read, "sum", group=layer.shape.groups)
        if is_conv
        else node("Gemm", read, "sum", transB=1)
    )
    nodes = [
        node("QuantizeLinear", ["x", "one", "zero"], "x_int"),
        node("DequantizeLinear", ["x_int", "one", "zero"], "x_float"),
        node("DequantizeLinear", ["w", "w_scale", "w_zero"], "w_float", axis=0),
        op,
        node("QuantizeLinear", ["sum", "y_scale", "y_zero"], "y_int"),
        node("DequantizeLinear", ["y_int", "y_scale", "y_zero"], "y"),
    ]
    return nodes, [numpy_helper.from_array(value, name(key)) for key, value in constants.items()]
