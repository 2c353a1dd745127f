"""Blocks of random networks: pools, joins, and ops that move or scale values."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from quirk_layers import activation, conv, conv_block, settle, some_channels
from quirk_sketch import Sketch


def pool(sketch: Sketch) -> None:
    """A pooling of any attributes."""
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
    settle(sketch, sketch.apply(op, [sketch.tensor], **attributes))
    if sketch.maybe(0.7):
        conv_block(sketch)


def residual(sketch: Sketch) -> None:
    """Two convolutions or one and the tensor itself, joined by Add."""
    skip = sketch.tensor
    tensor = conv(sketch, skip, sketch.shape[0], plain=True)
    if sketch.maybe(0.3):
        skip = conv(sketch, skip, sketch.shape[0], plain=True)
    order = [tensor, skip] if sketch.maybe(0.5) else [skip, tensor]
    sketch.parts.append("Add")
    settle(sketch, activation(sketch, sketch.apply("Add", order)))


def branches(sketch: Sketch) -> None:
    """Two or three branches of unlike scale, joined by Concat."""
    tensors = []
    for _ in range(sketch.whole(2, 3)):
        kind = sketch.one_of(["conv", "conv", "same", "scaled", "pool"])
        tensor = sketch.tensor
        if kind == "conv":
            tensor = activation(sketch, conv(sketch, tensor, some_channels(sketch), plain=True))
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
        tensor = activation(sketch, tensor)
    settle(sketch, tensor)
    if sketch.maybe(0.8):
        conv_block(sketch)


def squeeze_excite(sketch: Sketch) -> None:
    """Squeeze and excitation."""
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
    settle(sketch, sketch.apply("Mul", [sketch.tensor, gates]))
    if sketch.maybe(0.5):
        conv_block(sketch)


def resize(sketch: Sketch) -> None:
    """A map of twice the size."""
    mode = str(sketch.one_of(["nearest", "linear"]))
    scales = sketch.constant(np.array([1, 1, 2, 2], np.float32))
    how = str(sketch.one_of(["asymmetric", "half_pixel", "pytorch_half_pixel"]))
    sketch.parts.append(f"Resize {mode} {how}")
    settle(
        sketch,
        sketch.apply(
            "Resize", [sketch.tensor, "", scales], mode=mode, coordinate_transformation_mode=how
        ),
    )
    if sketch.maybe(0.7):
        conv_block(sketch)


def pad(sketch: Sketch) -> None:
    """A Pad and what reads it."""
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
    settle(sketch, tensor)
    conv_block(sketch)


def move(sketch: Sketch) -> None:
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
    settle(sketch, tensor)
    conv_block(sketch)


def arithmetic(sketch: Sketch) -> None:
    """Ops with a constant, or between two tensors."""
    channels = sketch.shape[0]
    kind = sketch.one_of(["add", "mul", "sub", "mulmul", "max"])
    size = sketch.magnitude
    if kind == "mulmul":
        tensor = sketch.apply(
            "Mul", [sketch.tensor, conv(sketch, sketch.tensor, channels, plain=True)]
        )
        sketch.magnitude = size * size
        if not 1e-6 < size * size < 1e6:
            sketch.magnitude = size
            raise ValueError("the product leaves the range.")
    elif kind == "max":
        other = conv(sketch, sketch.tensor, channels, plain=True)
        tensor = sketch.apply("Max", [sketch.tensor, other])
    else:
        values = sketch.random.uniform(-1, 1, (channels, 1, 1)) * (1 if kind == "mul" else size)
        op = {"add": "Add", "mul": "Mul", "sub": "Sub"}[str(kind)]
        tensor = sketch.apply(op, [sketch.tensor, sketch.constant(values.astype(np.float32))])
    sketch.parts.append(f"{kind}")
    settle(sketch, activation(sketch, tensor))
    if sketch.maybe(0.5):
        conv_block(sketch)
