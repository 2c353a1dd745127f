"""Convolutions and activations of random networks, as the blocks use them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from quirk_sketch import Sketch


def conv(
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


def activation(sketch: Sketch, tensor: str) -> str:
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


def settle(sketch: Sketch, tensor: str) -> None:
    """Makes a tensor the end of the network."""
    sketch.shape = sketch.shape_of(tensor)
    sketch.tensor = tensor


def some_channels(sketch: Sketch) -> int:
    """A number of channels, often one that fills no vector."""
    return int(sketch.one_of([1, 2, 3, 5, 7, 8, 8, 13, 16, 16, 17, 24, 32]))


def conv_block(sketch: Sketch) -> None:
    """A convolution of some magnitude and an activation."""
    factor = 1.0
    if sketch.maybe(0.2):
        low = max(-6.0, -6.0 - np.log10(sketch.magnitude))
        high = min(6.0, 6.0 - np.log10(sketch.magnitude))
        factor = float(10.0 ** sketch.random.uniform(low, high))
    tensor = conv(sketch, sketch.tensor, some_channels(sketch), factor=factor)
    sketch.magnitude *= factor
    settle(sketch, activation(sketch, tensor))
