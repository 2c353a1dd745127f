"""Blocks of the random networks of ``import_fuzz.py``, in either layout."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper


class Net:
    """A network that grows: nodes, weights, and the tensor at its end, ``[C, H, W]``."""

    def __init__(
        self,
        random: np.random.Generator,
        batch: int | None,
        *,
        last: bool,
        computes_shapes: bool,
    ) -> None:
        self.random, self.batch, self.last = random, batch, last
        self.computes_shapes = computes_shapes
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, NDArray[Any]] = {}
        self.value, self.shape = "x", [3, 16, 16]
        #: Whether a size stands in a shape, so that height and width cannot be open.
        self.bound = False

    def add(self, op: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Adds a node at the end."""
        self.value = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [self.value], **attributes))
        return self.value

    def weight(self, array: Any) -> str:
        """Adds a constant; floats become float32."""
        array = np.asarray(array)
        name = f"w{len(self.weights)}"
        self.weights[name] = array.astype(np.float32) if array.dtype.kind == "f" else array
        return name

    def normal(self, *shape: int) -> str:
        """Adds random weights."""
        return self.weight(self.random.standard_normal(shape) / np.sqrt(np.prod(shape[1:]) or 1))

    def per_channel(self) -> str:
        """A constant for each channel, in the layout of the network."""
        numbers = self.random.uniform(0.5, 1.5, self.shape[0])
        return self.weight(numbers if self.last else numbers[:, None, None])

    def maybe(self, share: float) -> bool:
        """True that often."""
        return bool(self.random.random() < share)

    def inside(self, op: str, more: Sequence[str], **attributes: Any) -> None:
        """An operator that exists for channels first only."""
        if self.last:
            self.add("Transpose", [self.value], perm=[0, 3, 1, 2])
        self.add(op, [self.value, *more], **attributes)
        if self.last:
            self.add("Transpose", [self.value], perm=[0, 2, 3, 1])

    def pads(self, amount: int) -> str:
        """Spatial padding at all four sides."""
        half = [0, amount, amount, 0] if self.last else [0, 0, amount, amount]
        return self.weight(np.array(half * 2))

    def target(self, *sizes: int) -> str:
        """A shape that begins with the batch, computed or written out."""
        self.bound = True
        if not self.computes_shapes:
            return self.weight(np.array([self.batch or -1, *sizes]))
        kept = self.value
        self.add("Shape", [kept])
        self.add("Gather", [self.value, self.weight(np.array([0]))])
        made = self.add("Concat", [self.value, self.weight(np.array(sizes))], axis=0)
        self.value = kept
        return made

    def conv(self, channels: int, kernel: int, stride: int = 1) -> None:
        """A convolution with one of several biases or normalizations."""
        padded = kernel > 1 and self.maybe(0.4)
        if padded:
            self.add("Pad", [self.value, self.pads(kernel // 2)])
        amount = 0 if padded else kernel // 2
        weight = self.normal(channels, self.shape[0], kernel, kernel)
        attributes = {"pads": [amount] * 4, "strides": [stride] * 2}
        self.inside("Conv", [weight], **attributes)
        sides = [(side + 2 * (kernel // 2) - kernel) // stride + 1 for side in self.shape[1:]]
        self.shape = [channels, *sides]
        norm = self.random.integers(4)
        if norm == 0:
            self.batch_norm()
        elif norm == 1:
            self.add("Mul", [self.value, self.per_channel()])
            self.add("Sub", [self.value, self.per_channel()])
        elif norm == 2:
            self.add("Add", [self.value, self.per_channel()])

    def batch_norm(self) -> None:
        """Normalization with statistics of training."""
        terms = [self.weight(self.random.uniform(0.5, 1.5, self.shape[0])) for _ in range(4)]
        self.inside("BatchNormalization", terms)

    def normalize(self) -> None:
        """What is done to the image inside."""
        self.add("Sub", [self.value, self.per_channel()])
        self.add("Div", [self.value, self.per_channel()])

    def head(self, classes: int) -> None:
        """Mean over the image, and class scores, in one of several ways."""
        if not self.last and self.maybe(0.25):
            self.add("GlobalAveragePool", [self.value])
            weight = self.normal(classes, self.shape[0], 1, 1)
            self.add("Conv", [self.value, weight, self.normal(classes)])
            self.add("Flatten", [self.value], axis=1)
            return
        if self.maybe(0.5) or self.last:
            self.inside("GlobalAveragePool", [])
            self.add("Flatten", [self.value], axis=1)
        else:
            places = self.shape[1] * self.shape[2]
            self.add("Reshape", [self.value, self.target(self.shape[0], places)])
            self.add("MatMul", [self.value, self.weight(np.full((places, 1), 1 / places))])
            self.add("Flatten", [self.value], axis=1)
        self.add("MatMul", [self.value, self.normal(self.shape[0], classes)])
        self.add("Add", [self.value, self.normal(classes)])


def residual(net: Net) -> None:
    """Two convolutions and a sum, normalized before or after."""
    if net.maybe(0.3):
        net.batch_norm()
        net.add("Relu", [net.value])
    kept, channels = net.value, net.shape[0]
    net.conv(channels, 3)
    activation(net)
    net.conv(channels, 3)
    net.add("Add", [net.value, kept])
    net.add("Relu", [net.value])


def activation(net: Net) -> None:
    """One of the usual ones."""
    kept = net.value
    match net.random.integers(5):
        case 0:
            net.add("Mul", [net.add("Sigmoid", [kept]), kept])
        case 1:
            net.add("Clip", [kept, net.weight(np.float32(0)), net.weight(np.float32(6))])
        case 2:
            net.add("PRelu", [kept, net.per_channel()])
        case 3:
            net.add("Mul", [net.add("HardSigmoid", [kept]), kept])
        case _:
            net.add("Relu", [kept])


def pool(net: Net) -> None:
    """A pool with padding of its own or in front."""
    op = "MaxPool" if net.maybe(0.6) else "AveragePool"
    net.add("Relu", [net.value])
    in_front = net.maybe(0.5)
    if in_front:
        net.add("Pad", [net.value, net.pads(1)])
    pads = [0] * 4 if in_front else [1] * 4
    net.inside(op, [], kernel_shape=[3, 3], strides=[2, 2], pads=pads)
    net.shape[1:] = [(side - 1) // 2 + 1 for side in net.shape[1:]]


def squeeze_excite(net: Net) -> None:
    """Channels weighted by what is in them, as convolutions or fully connected."""
    kept, channels = net.value, net.shape[0]
    axes = [1, 2] if net.last else [2, 3]
    net.inside("GlobalAveragePool", [])
    net.add("Flatten", [net.value], axis=1)
    net.add("MatMul", [net.value, net.normal(channels, 2)])
    net.add("Relu", [net.value])
    net.add("MatMul", [net.value, net.normal(2, channels)])
    net.add("Sigmoid", [net.value])
    net.add("Unsqueeze", [net.value, net.weight(np.array(axes))])
    if net.maybe(0.5) and (net.batch is not None or net.computes_shapes):
        net.add("Expand", [net.value, net.target(*whole(net))])
    net.add("Mul", [kept, net.value])


def whole(net: Net) -> list[int]:
    """The shape of the tensor in the network's layout."""
    return [*net.shape[1:], net.shape[0]] if net.last else list(net.shape)


def shuffle(net: Net) -> None:
    """Channels in another order, by way of five dimensions."""
    if net.last:
        return
    channels, height, width = net.shape
    net.add("Reshape", [net.value, net.target(2, channels // 2, height, width)])
    turned = net.add("Transpose", [net.value], perm=[0, 2, 1, 3, 4])
    net.value = net.nodes[-1].input[0]
    target = net.target(channels, height, width)
    net.add("Reshape", [turned, target])


def joined(net: Net) -> None:
    """Half of the channels, and zeros in place of the others."""
    kept, channels = net.value, net.shape[0]
    half = whole(net)
    axis = 3 if net.last else 1
    half[axis - 1] = channels - channels // 2
    start, end, where = (net.weight(np.array([n])) for n in (0, channels // 2, axis))
    if net.batch is None and not net.computes_shapes:
        return
    zeros = net.add("ConstantOfShape", [net.target(*half)])
    part = net.add("Slice", [kept, start, end, where])
    net.add("Concat", [part, zeros], axis=axis)


def group_norm(net: Net) -> None:
    """As torch writes it."""
    if net.last:
        return
    channels, height, width = net.shape
    kept = net.value
    net.add("Reshape", [kept, net.target(2, channels // 2 * height * width)])
    ones, zeros = net.weight(np.ones(2)), net.weight(np.zeros(2))
    normal = net.add("InstanceNormalization", [net.value, ones, zeros])
    net.value = kept
    net.add("Reshape", [normal, net.target(channels, height, width)])
    net.add("Mul", [net.value, net.per_channel()])
    net.add("Add", [net.value, net.per_channel()])


def attention(net: Net) -> None:
    """Each place looks at all others."""
    if net.last:
        return
    channels, height, width = net.shape
    kept = net.value
    net.add("Reshape", [kept, net.target(channels, height * width)])
    rows = net.value
    columns = net.add("Transpose", [rows], perm=[0, 2, 1])
    net.add("MatMul", [columns, rows])
    net.add("Softmax", [net.value], axis=2)
    mixed = net.add("MatMul", [rows, net.value])
    net.value = kept
    net.add("Reshape", [mixed, net.target(channels, height, width)])
    net.add("Add", [net.value, kept])


def downsample(net: Net) -> None:
    """A convolution with stride that doubles the channels."""
    net.conv(2 * net.shape[0] if net.shape[0] < 32 else net.shape[0], 3, 2)
    activation(net)


BLOCKS: Mapping[str, Callable[[Net], None]] = {
    "residual": residual,
    "pool": pool,
    "squeeze and excite": squeeze_excite,
    "shuffle": shuffle,
    "joined": joined,
    "group norm": group_norm,
    "attention": attention,
    "downsample": downsample,
}
