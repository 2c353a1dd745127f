"""Blocks in which tensors are read in unusual ways: twice, broadcast, before their activation."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from quirk_layers import activation, conv, conv_block, settle, some_channels
from quirk_sketch import Sketch


def pre_activation(sketch: Sketch) -> None:
    """A residual block whose activations stand in front of the convolutions."""
    skip = sketch.tensor
    tensor = activation(sketch, skip)
    tensor = conv(sketch, tensor, sketch.shape[0], plain=True)
    if sketch.maybe(0.5):
        tensor = conv(sketch, activation(sketch, tensor), sketch.shape[0], plain=True)
    sketch.parts.append("pre-activation Add")
    settle(sketch, sketch.apply("Add", [tensor, skip] if sketch.maybe(0.5) else [skip, tensor]))


def add_itself(sketch: Sketch) -> None:
    """A tensor and itself, or what only moves its values."""
    other = sketch.tensor
    if sketch.maybe(0.5):
        other = sketch.apply(
            "MaxPool", [other], kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1]
        )
    sketch.parts.append("Add of itself")
    settle(sketch, activation(sketch, sketch.apply("Add", [sketch.tensor, other])))
    if sketch.maybe(0.5):
        conv_block(sketch)


def add_broadcast(sketch: Sketch) -> None:
    """A map and one number for each channel of it, or a map of one channel."""
    if sketch.maybe(0.5):
        other = sketch.apply("GlobalAveragePool", [sketch.tensor])
        if sketch.maybe(0.5):
            other = conv(sketch, other, sketch.shape[0], plain=True)
    else:
        other = conv(sketch, sketch.tensor, 1, plain=True)
    order = [sketch.tensor, other] if sketch.maybe(0.5) else [other, sketch.tensor]
    op = str(sketch.one_of(["Add", "Add", "Mul", "Sub"]))
    if op == "Mul":
        other = sketch.apply("Sigmoid", [other])
        order = [sketch.tensor, other]
    sketch.parts.append(f"broadcast {op}")
    settle(sketch, activation(sketch, sketch.apply(op, order)))


def several_readers(sketch: Sketch) -> None:
    """One convolution that two activations, or an activation and an Add, read."""
    tensor = conv(sketch, sketch.tensor, sketch.shape[0], plain=True)
    first, second = activation(sketch, tensor), activation(sketch, tensor)
    sketch.parts.append("two readers")
    if sketch.maybe(0.5):
        first = conv(sketch, first, sketch.shape[0], plain=True)
    if sketch.maybe(0.5):
        joined = sketch.apply("Concat", [first, second], axis=1)
    else:
        joined = sketch.apply("Add", [first, second])
    settle(sketch, joined)


def transposed(sketch: Sketch) -> None:
    """A transposed convolution, which engines run in float, between INT8 layers."""
    width, rows = sketch.shape[0], some_channels(sketch)
    groups = 2 if width % 2 == 0 and rows % 2 == 0 and sketch.maybe(0.3) else 1
    kernel, stride = sketch.whole(2, 3), sketch.whole(1, 2)
    weight = sketch.random.standard_normal((width, rows // groups, kernel, kernel))
    weight *= np.sqrt(1.6 / (width * kernel * kernel))
    inputs = [sketch.tensor, sketch.constant(weight.astype(np.float32))]
    if sketch.maybe(0.7):
        bias = sketch.random.standard_normal(rows) * 0.3 * sketch.magnitude
        inputs.append(sketch.constant(bias.astype(np.float32)))
    sketch.parts.append(f"ConvTranspose {width}>{rows} k{kernel} g{groups} s{stride}")
    tensor = sketch.apply(
        "ConvTranspose", inputs, kernel_shape=[kernel] * 2, strides=[stride] * 2, group=groups
    )
    settle(sketch, activation(sketch, tensor))
    conv_block(sketch)


def matmul(sketch: Sketch) -> None:
    """A product with a constant over the channels of all pixels, as in mixers."""
    channels, rows = sketch.shape[0], some_channels(sketch)
    tensor = sketch.apply("Transpose", [sketch.tensor], perm=[0, 2, 3, 1])
    weight = sketch.random.standard_normal((channels, rows)) / np.sqrt(channels)
    tensor = sketch.apply("MatMul", [tensor, sketch.constant(weight.astype(np.float32))])
    if sketch.maybe(0.5):
        bias = sketch.random.standard_normal(rows) * 0.2 * sketch.magnitude
        tensor = sketch.apply("Add", [tensor, sketch.constant(bias.astype(np.float32))])
    if sketch.maybe(0.5):
        tensor = sketch.apply("Relu", [tensor])
    sketch.parts.append(f"MatMul {channels}>{rows}")
    settle(sketch, sketch.apply("Transpose", [tensor], perm=[0, 3, 1, 2]))
    if sketch.maybe(0.5):
        conv_block(sketch)


READERS: tuple[Callable[[Sketch], None], ...] = (
    pre_activation, add_itself, add_broadcast, several_readers, transposed, matmul,
)  # fmt: skip
