"""Random small networks, each from a seed, for the search for engine quirks.

A network is a chain of blocks on maps of a few pixels, drawn over operators, attributes and
magnitudes: what engines treat specially is in the attributes (who pads with what, what ``ceil``
counts), in channel counts that do not fill a vector, and in scales and zero points at their ends.
All of them are networks that ``edgeres`` accepts; weights are random, since only arithmetic is
looked at.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

sys.path.insert(0, str(Path(__file__).parent))
from quirk_sketch import Sketch, image_info

IMAGES = 6
"""Images for each network: they calibrate it and are then run."""
_CLASSES = 6


@dataclass(frozen=True)
class Network:
    """A network in FP32 and its images.

    Attributes:
        seed: What it was drawn from.
        model: One input ``(N, C, H, W) float32``, one output ``(N, K)``.
        images: ``(IMAGES, C, H, W) float32``.
        parts: Its blocks in words.
    """

    seed: int
    model: onnx.ModelProto
    images: NDArray[np.float32]
    parts: tuple[str, ...]


def draw(seed: int) -> Network:
    """The network of a seed."""
    random = np.random.default_rng(seed)
    image = (
        int(random.choice([1, 2, 3, 3, 4, 5])),
        int(random.integers(6, 12)),
        int(random.integers(6, 12)),
    )
    magnitude = float(10.0 ** random.uniform(-6, 6)) if random.random() < 0.25 else 1.0
    sketch = Sketch(random, "x", image, image=image, magnitude=magnitude)
    _conv_block(sketch)
    for _ in range(sketch.whole(1, 3)):
        block = BLOCKS[int(random.integers(len(BLOCKS)))]
        saved = (
            sketch.tensor,
            sketch.shape,
            len(sketch.nodes),
            len(sketch.weights),
            len(sketch.parts),
        )
        try:
            block(sketch)
        except ValueError:  # the attributes leave no pixel: the block is left out
            sketch.tensor, sketch.shape = saved[:2]
            del sketch.nodes[saved[2] :], sketch.weights[saved[3] :], sketch.parts[saved[4] :]
    _head(sketch)
    graph = helper.make_graph(
        sketch.nodes,
        f"network{seed}",
        [image_info("x", image, "N")],
        [helper.make_tensor_value_info(sketch.tensor, TensorProto.FLOAT, ["N", _CLASSES])],
        sketch.weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    images = random.standard_normal((IMAGES, *image)) + random.uniform(-1, 1, (IMAGES, 1, 1, 1))
    return Network(seed, model, (images * magnitude).astype(np.float32), tuple(sketch.parts))


def _conv(
    sketch: Sketch, tensor: str, channels: int, *, plain: bool = False, factor: float = 1.0
) -> str:
    """A convolution of some attributes; with ``plain`` one that keeps height and width."""
    kernel = [sketch.whole(1, 3), sketch.whole(1, 3)] if sketch.maybe(0.3) else [3, 3]
    if sketch.maybe(0.3):
        kernel = [1, 1]
    if plain:
        kernel = [int(sketch.one_of([1, 3]))] * 2
    width = sketch.shape[0] if tensor == sketch.tensor else sketch.shape_of(tensor)[0]
    divisors = [g for g in range(1, width + 1) if width % g == 0]
    groups = int(sketch.one_of(divisors)) if sketch.maybe(0.3) else 1
    channels = -(-channels // groups) * groups if not plain else channels
    if channels % groups:
        groups = 1
    dilation = 2 if sketch.maybe(0.15) and kernel == [3, 3] else 1
    pads = [dilation * (k // 2) for k in kernel] * 2
    stride = [1, 1]
    if not plain:
        if sketch.maybe(0.35):
            pads = [sketch.whole(0, 2) for _ in range(4)]
        if sketch.maybe(0.3):
            stride = [sketch.whole(1, 2), sketch.whole(1, 2)]
    weight = sketch.random.standard_normal((channels, width // groups, *kernel))
    weight *= factor * np.sqrt(1.6 / weight[0].size)
    weight *= sketch.random.uniform(0.3, 1.7, (channels, 1, 1, 1))
    if sketch.maybe(0.1):
        weight[sketch.whole(0, channels - 1)] = 0.0
    inputs = [tensor, sketch.constant(weight.astype(np.float32))]
    kind = ""
    if sketch.maybe(0.8):
        # Zero points at their ends and tensors that a Relu leaves nothing of.
        shift = float(sketch.one_of([0, 0, 0, 0, 0, 0, 3, -2, 30]))
        kind = f" bias {shift:+g}" if shift else ""
        spread = sketch.magnitude * factor
        bias = (sketch.random.standard_normal(channels) * 0.3 + shift) * spread
        inputs.append(sketch.constant(bias.astype(np.float32)))
    sketch.parts.append(
        f"Conv {width}>{channels} k{kernel} g{groups} d{dilation} p{pads} s{stride} "
        f"x{factor:.1e}{kind}"
    )
    return sketch.apply(
        "Conv", inputs, kernel_shape=kernel, group=groups, dilations=[dilation] * 2,
        pads=pads, strides=stride,
    )  # fmt: skip


def _activation(sketch: Sketch, tensor: str) -> str:
    """One of the activations of convolutional networks, or none."""
    kind = sketch.one_of(
        ["Relu", "Relu", "Relu", "none", "none", "Clip", "Relu6", "LeakyRelu", "PRelu", "SiLU",
         "HardSwish", "HardSigmoid", "Sigmoid", "Elu"]
    )  # fmt: skip
    size = sketch.magnitude
    sketch.parts.append(str(kind))
    if kind == "none":
        return tensor
    if kind in ("Clip", "Relu6"):
        low = 0.0 if kind == "Relu6" else sketch.random.uniform(-1.5, 0.3)
        high = low + sketch.random.uniform(0.2, 3)
        bounds = [sketch.constant(np.float32(bound * size)) for bound in (low, high)]
        return sketch.apply("Clip", [tensor, *bounds])
    if kind == "LeakyRelu":
        return sketch.apply("LeakyRelu", [tensor], alpha=float(sketch.random.uniform(-0.2, 0.5)))
    if kind == "PRelu":
        channels = sketch.shape_of(tensor)[0]
        slopes = sketch.random.uniform(-0.3, 0.5, (channels, 1, 1)).astype(np.float32)
        return sketch.apply("PRelu", [tensor, sketch.constant(slopes)])
    if kind == "SiLU":
        return sketch.apply("Mul", [tensor, sketch.apply("Sigmoid", [tensor])])
    return sketch.apply(str(kind), [tensor])


def _settle(sketch: Sketch, tensor: str) -> None:
    sketch.shape = sketch.shape_of(tensor)
    sketch.tensor = tensor


def _channels(sketch: Sketch) -> int:
    return int(sketch.one_of([1, 2, 3, 5, 7, 8, 8, 13, 16, 16, 17, 24, 32]))


def _conv_block(sketch: Sketch) -> None:
    factor = 1.0
    if sketch.maybe(0.2):
        low = max(-6.0, -6.0 - np.log10(sketch.magnitude))
        high = min(6.0, 6.0 - np.log10(sketch.magnitude))
        factor = float(10.0 ** sketch.random.uniform(low, high))
    tensor = _conv(sketch, sketch.tensor, _channels(sketch), factor=factor)
    sketch.magnitude *= factor
    _settle(sketch, _activation(sketch, tensor))


def _pool(sketch: Sketch) -> None:
    op = str(sketch.one_of(["AveragePool", "AveragePool", "MaxPool"]))
    kernel = (
        [sketch.whole(1, 3), sketch.whole(1, 3)] if sketch.maybe(0.3) else [sketch.whole(2, 3)] * 2
    )
    attributes: dict[str, Any] = {
        "kernel_shape": kernel,
        "strides": [sketch.whole(1, 3), sketch.whole(1, 2)]
        if sketch.maybe(0.3)
        else [sketch.whole(1, 2)] * 2,
    }
    if sketch.maybe(0.5):
        attributes["ceil_mode"] = 1
    if op == "AveragePool" and sketch.maybe(0.5):
        attributes["count_include_pad"] = 1
    if sketch.maybe(0.15):
        attributes["dilations"] = [2, 2] if sketch.maybe(0.5) else [1, 2]
    if sketch.maybe(0.2):
        attributes["auto_pad"] = sketch.one_of(["SAME_UPPER", "SAME_LOWER", "VALID"])
    elif sketch.maybe(0.6):
        same = sketch.maybe(0.6)
        pads = [sketch.whole(0, k - 1) for k in kernel]
        attributes["pads"] = (
            pads * 2 if same else [*pads, *(sketch.whole(0, k - 1) for k in kernel)]
        )
    pads = [*attributes.get("pads", [0] * 4)]
    reach = [
        (k - 1) * d + 1 for k, d in zip(kernel, attributes.get("dilations", [1, 1]), strict=True)
    ]
    if any(
        r > s + b + e
        for r, s, b, e in zip(reach, sketch.shape[1:], pads[:2], pads[2:], strict=True)
    ):
        raise ValueError("the window is larger than the image.")
    if attributes.get("ceil_mode"):
        for size, begin, end, r, stride in zip(
            sketch.shape[1:], pads[:2], pads[2:], reach, attributes["strides"], strict=True
        ):
            # ONNX drops a window that starts in the padding, its shape inference does not.
            if -(-(size + begin + end - r) // stride) * stride >= size + begin:
                raise ValueError("the shape of this pool is inferred wrongly.")
    sketch.parts.append(f"{op} {attributes}")
    _settle(sketch, sketch.apply(op, [sketch.tensor], **attributes))
    if sketch.maybe(0.7):
        _conv_block(sketch)


def _residual(sketch: Sketch) -> None:
    skip = sketch.tensor
    tensor = _conv(sketch, skip, sketch.shape[0], plain=True)
    if sketch.maybe(0.3):
        skip = _conv(sketch, skip, sketch.shape[0], plain=True)
    order = [tensor, skip] if sketch.maybe(0.5) else [skip, tensor]
    sketch.parts.append("Add")
    _settle(sketch, _activation(sketch, sketch.apply("Add", order)))


def _branches(sketch: Sketch) -> None:
    """Two or three branches of unlike scale, joined by Concat."""
    tensors = []
    for _ in range(sketch.whole(2, 3)):
        kind = sketch.one_of(["conv", "conv", "same", "scaled", "pool"])
        tensor = sketch.tensor
        if kind == "conv":
            tensor = _activation(sketch, _conv(sketch, tensor, _channels(sketch), plain=True))
        elif kind == "scaled":
            factor = np.float32(10.0 ** sketch.random.uniform(-2, 2))
            tensor = sketch.apply("Mul", [tensor, sketch.constant(factor)])
        elif kind == "pool":
            op = str(sketch.one_of(["MaxPool", "AveragePool"]))
            tensor = sketch.apply(op, [tensor], kernel_shape=[3, 3], strides=[1, 1], pads=[1] * 4)
        sketch.parts.append(f"branch {kind}")
        tensors.append(tensor)
    sketch.parts.append("Concat")
    tensor = sketch.apply("Concat", tensors, axis=1)
    if sketch.maybe(0.3):
        tensor = _activation(sketch, tensor)
    _settle(sketch, tensor)
    if sketch.maybe(0.8):
        _conv_block(sketch)


def _squeeze_excite(sketch: Sketch) -> None:
    width = sketch.shape[0]
    pooled = sketch.apply("GlobalAveragePool", [sketch.tensor])
    narrow = max(1, width // 2)
    inputs = []
    for rows, columns in ((narrow, width), (width, narrow)):
        weight = sketch.random.standard_normal((rows, columns, 1, 1)) / np.sqrt(columns)
        bias = sketch.random.standard_normal(rows) * 0.2
        inputs.append([sketch.constant(a.astype(np.float32)) for a in (weight, bias)])
    hidden = sketch.apply("Relu", [sketch.apply("Conv", [pooled, *inputs[0]])])
    gate = str(sketch.one_of(["Sigmoid", "HardSigmoid"]))
    gates = sketch.apply(gate, [sketch.apply("Conv", [hidden, *inputs[1]])])
    sketch.parts.append(f"SE {gate}")
    _settle(sketch, sketch.apply("Mul", [sketch.tensor, gates]))
    if sketch.maybe(0.5):
        _conv_block(sketch)


def _resize(sketch: Sketch) -> None:
    mode = str(sketch.one_of(["nearest", "linear"]))
    scales = sketch.constant(np.array([1, 1, 2, 2], np.float32))
    how = str(sketch.one_of(["asymmetric", "half_pixel", "pytorch_half_pixel"]))
    sketch.parts.append(f"Resize {mode} {how}")
    _settle(
        sketch,
        sketch.apply(
            "Resize", [sketch.tensor, "", scales], mode=mode, coordinate_transformation_mode=how
        ),
    )
    if sketch.maybe(0.7):
        _conv_block(sketch)


def _pad(sketch: Sketch) -> None:
    mode = str(sketch.one_of(["constant", "constant", "edge", "reflect"]))
    begins = [sketch.whole(0, 2), sketch.whole(0, 2)]
    ends = [sketch.whole(0, 2), sketch.whole(0, 2)]
    pads = sketch.constant(np.array([0, 0, *begins, 0, 0, *ends], np.int64))
    inputs = [sketch.tensor, pads]
    value = 0.0
    if mode == "constant" and sketch.maybe(0.4):
        value = float(sketch.random.uniform(-1, 1)) * sketch.magnitude
        inputs.append(sketch.constant(np.float32(value)))
    sketch.parts.append(f"Pad {mode} {value:.2g}")
    tensor = sketch.apply("Pad", inputs, mode=mode)
    then = sketch.one_of(["conv", "MaxPool", "AveragePool"])
    if then != "conv":
        tensor = sketch.apply(str(then), [tensor], kernel_shape=[3, 3], strides=[2, 2])
        sketch.parts.append(str(then))
    _settle(sketch, tensor)
    _conv_block(sketch)


def _move(sketch: Sketch) -> None:
    """Ops that only move values: channel shuffle, slices."""
    channels, height, width = sketch.shape
    kind = sketch.one_of(["shuffle", "slice", "split"])
    if kind == "shuffle" and channels % 2 == 0:
        split = sketch.constant(np.array([-1, 2, channels // 2, height, width], np.int64))
        joined = sketch.constant(np.array([-1, channels, height, width], np.int64))
        tensor = sketch.apply("Reshape", [sketch.tensor, split])
        tensor = sketch.apply("Transpose", [tensor], perm=[0, 2, 1, 3, 4])
        tensor = sketch.apply("Reshape", [tensor, joined])
    else:
        kind = "slice"
        axis = sketch.whole(1, 3)
        start = 1 if sketch.shape[axis - 1] > 2 else 0
        ends = [
            sketch.constant(np.array([v], np.int64)) for v in (start, sketch.shape[axis - 1], axis)
        ]
        tensor = sketch.apply("Slice", [sketch.tensor, *ends])
    sketch.parts.append(str(kind))
    _settle(sketch, tensor)
    _conv_block(sketch)


def _arithmetic(sketch: Sketch) -> None:
    """Ops with a constant, or between two tensors."""
    channels = sketch.shape[0]
    kind = sketch.one_of(["add", "mul", "sub", "mulmul", "max"])
    size = sketch.magnitude
    if kind == "mulmul":
        tensor = sketch.apply(
            "Mul", [sketch.tensor, _conv(sketch, sketch.tensor, channels, plain=True)]
        )
        sketch.magnitude = size * size
        if not 1e-6 < size * size < 1e6:
            sketch.magnitude = size
            raise ValueError("the product leaves the range.")
    elif kind == "max":
        other = _conv(sketch, sketch.tensor, channels, plain=True)
        tensor = sketch.apply("Max", [sketch.tensor, other])
    else:
        values = sketch.random.uniform(-1, 1, (channels, 1, 1)) * (1 if kind == "mul" else size)
        op = {"add": "Add", "mul": "Mul", "sub": "Sub"}[str(kind)]
        tensor = sketch.apply(op, [sketch.tensor, sketch.constant(values.astype(np.float32))])
    sketch.parts.append(f"{kind}")
    _settle(sketch, _activation(sketch, tensor))
    if sketch.maybe(0.5):
        _conv_block(sketch)


def _head(sketch: Sketch) -> None:
    """Pooling or none, then one to three fully connected layers."""
    kind = sketch.one_of(
        ["GlobalAveragePool", "GlobalAveragePool", "ReduceMean", "Flatten", "GlobalMaxPool"]
    )
    tensor = sketch.tensor
    if kind == "ReduceMean":
        axes = sketch.constant(np.array([2, 3], np.int64))
        tensor = sketch.apply("ReduceMean", [tensor, axes], keepdims=0)
    else:
        if kind != "Flatten":
            tensor = sketch.apply(str(kind), [tensor])
        tensor = sketch.apply("Flatten", [tensor], axis=1)
    width = int(np.prod(sketch.shape)) if kind == "Flatten" else sketch.shape[0]
    sketch.parts.append(str(kind))
    if kind == "GlobalAveragePool" and sketch.maybe(0.2):
        peaks = sketch.apply("Flatten", [sketch.apply("GlobalMaxPool", [sketch.tensor])], axis=1)
        tensor, width = sketch.apply("Concat", [tensor, peaks], axis=1), 2 * width
        sketch.parts.append("Concat of peaks")
    for last in [False] * sketch.whole(0, 2) + [True]:
        rows = _CLASSES if last else sketch.whole(3, 40)
        weight = sketch.random.standard_normal((rows, width)) / np.sqrt(width)
        bias = sketch.random.standard_normal(rows) * 0.2 * sketch.magnitude
        names = [sketch.constant(a.astype(np.float32)) for a in (weight, bias)]
        tensor = sketch.apply("Gemm", [tensor, *names], transB=1)
        if not last and sketch.maybe(0.7):
            tensor = sketch.apply("Relu", [tensor])
        sketch.parts.append(f"Gemm {width}>{rows}")
        width = rows
    sketch.tensor = tensor


BLOCKS: tuple[Callable[[Sketch], None], ...] = (
    _conv_block, _conv_block, _pool, _pool, _pool, _residual, _residual, _branches, _branches,
    _squeeze_excite, _resize, _pad, _move, _arithmetic,
)  # fmt: skip
