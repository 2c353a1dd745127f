"""Compares the gradients of single convolutions with float64, in the memory layout of a training.

A wrong gradient shows nowhere: the loss still falls, only the network gets worse. So the shapes of
a network are tried before it is trained, on random numbers: random sums of output, input gradient
and weight gradient against the same in float64 and channels first, another path through torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.grad import conv2d_input, conv2d_weight
from torch.overrides import TorchFunctionMode

from edgeres.errors import StageError
from edgeres.system.child import run_limited

Pair = int | str | Sequence[int]
LayoutName = Literal["channels_last", "channels_first"]
FORMATS = {
    "channels_last": torch.channels_last,
    "channels_first": torch.contiguous_format,
}

#: Norm of the error over the norm of the right answer. A wrong gradient has 0.1 to 1; right ones
#: about 1e-7 (float32) and 4e-3 (bfloat16).
LIMITS = {"float32": 1e-3, "float16": 1e-2, "bfloat16": 5e-2}
#: Images of a trial, and numbers of its input at most.
_IMAGES, _NUMBERS = 4, 1 << 18
#: Random sums over the channels that are compared.
_SUMS = 2
#: For a process that may hang; torch alone takes seconds to import on a busy machine.
CHILD_LIMIT_S = 120.0


@dataclass(frozen=True)
class ConvShape:
    """One convolution as a network calls it, batch apart.

    Attributes:
        kernel: Height and width.
        stride: Of rows and columns.
        padding: Of rows and columns.
        dilation: Of rows and columns.
        groups: Number of groups.
        inputs: Input channels.
        outputs: Output channels.
        size: Height and width of the input.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    inputs: int
    outputs: int
    size: tuple[int, int]

    def __str__(self) -> str:
        kind = f"{self.kernel[0]}x{self.kernel[1]} convolution of {self.inputs} to {self.outputs}"
        more = [f"stride {self.stride[0]}"] if self.stride != (1, 1) else []
        more += [f"{self.groups} groups"] if self.groups > 1 else []
        more += [f"dilation {self.dilation[0]}"] if self.dilation != (1, 1) else []
        return " ".join([f"{kind} channels", *more, f"at {self.size[0]}x{self.size[1]}"])


def conv_shapes(module: nn.Module, images: Tensor) -> tuple[ConvShape, ...]:
    """Distinct shapes of the two-dimensional convolutions of a forward pass, in order.

    Args:
        module: Runs once in evaluation mode; its training mode is restored.
        images: ``(N, C, H, W) float32`` of the size that it will be trained on.
    """
    found: dict[ConvShape, None] = {}

    class Watch(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            if func is torch.conv2d:
                found[_shape_of(*args, **(kwargs or {}))] = None
            return func(*args, **(kwargs or {}))

    training = module.training
    module.eval()
    try:
        with torch.no_grad(), Watch():
            module(images)
    finally:
        module.train(training)
    return tuple(found)


def _shape_of(
    input: Tensor,  # these are the names of torch's own arguments
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> ConvShape:
    kernel = (weight.shape[2], weight.shape[3])
    if padding == "same":  # torch allows it at stride 1 only; an odd pixel goes to the far side
        spread = _pair(dilation)
        padding = tuple(d * (k - 1) // 2 for d, k in zip(spread, kernel, strict=True))
    elif padding == "valid":
        padding = 0
    return ConvShape(
        kernel,
        _pair(stride),
        _pair(padding),
        _pair(dilation),
        groups,
        input.shape[1],
        weight.shape[0],
        (input.shape[2], input.shape[3]),
    )


def _pair(values: Pair) -> tuple[int, int]:
    if isinstance(values, int):
        return values, values
    return int(values[0]), int(values[-1])


def may_crash(shape: ConvShape) -> bool:
    """Whether a shape is of the kind whose fault was seen to corrupt memory or to hang.

    These are convolutions of one pixel that leave pixels out, with a number of channels that does
    not fill the CPU's registers: oneDNN copies the pixels that are used together first.
    """
    return shape.kernel == (1, 1) and max(shape.stride) > 1 and shape.inputs % 8 != 0


def wrong_shapes(
    shapes: Sequence[ConvShape], layout: LayoutName, dtype: torch.dtype
) -> list[tuple[ConvShape, str]]:
    """Shapes whose gradients are wrong in a layout on this CPU, each with what was seen.

    Each is tried once a process and number of threads. What might crash or hang is tried in a
    child process.
    """
    name, threads = str(dtype).removeprefix("torch."), torch.get_num_threads()
    risky = tuple(shape for shape in shapes if may_crash(shape))
    wrong = []
    if risky and (trouble := _isolated(risky, layout, name, threads)):
        return [(risky[0], trouble)]
    for shape in shapes:
        if not may_crash(shape) and (error := _error(shape, layout, name, threads)) > LIMITS[name]:
            wrong.append((shape, f"relative error {error:.2g}"))
    return wrong


@cache
def _error(shape: ConvShape, layout: LayoutName, dtype: str, threads: int) -> float:
    """Largest relative error of one shape; ``threads`` only tells the answers apart."""
    return gradient_error(shape, layout, dtype)


@cache
def _isolated(shapes: tuple[ConvShape, ...], layout: LayoutName, dtype: str, threads: int) -> str:
    """What is wrong with shapes that might take the process down; empty where nothing is."""
    measure = run_limited(errors_of, seconds=CHILD_LIMIT_S, memory_bytes=None)
    try:
        worst = measure(shapes, layout, dtype, threads)
    except StageError as error:
        return error.message
    return f"relative error {worst:.2g}" if not worst <= LIMITS[dtype] else ""


def errors_of(shapes: Sequence[ConvShape], layout: LayoutName, dtype: str, threads: int) -> float:
    """The child's side: the largest error of all shapes (a NaN is told as a large number)."""
    torch.set_num_threads(threads)
    errors = [gradient_error(shape, layout, dtype) for shape in shapes]
    return max(error if error <= 1e9 else 1e9 for error in errors)


def gradient_error(shape: ConvShape, layout: LayoutName, dtype: str) -> float:
    """Relative error of output, input gradient and weight gradient of a convolution; the largest.

    All three are linear in the channels, so two sums with random signs over the channels of a
    group stand for all of them: the right sums are a convolution of so few channels, and the error
    of the sums is that of the whole on average (R. Freivalds, "Probabilistic machines can use less
    running time", IFIP 1977). The convolution itself has its true channels and size.

    Args:
        shape: The convolution.
        layout: Of image, weight and the output's gradient.
        dtype: What it computes in: a name of :data:`LIMITS`.
    """
    kind: torch.dtype = getattr(torch, dtype)
    numbers = shape.inputs * shape.size[0] * shape.size[1]
    count = max(2, min(_IMAGES, _NUMBERS // numbers))
    generator = torch.Generator().manual_seed(0)

    def random(*sizes: int) -> Tensor:
        # Rounded to the type first, so that both sides start from the same numbers.
        return torch.randn(sizes, generator=generator).to(kind)

    image = random(count, shape.inputs, *shape.size)
    weight = random(shape.outputs, shape.inputs // shape.groups, *shape.kernel)
    output, into_image, into_weight, slope = _step(shape, image, weight, layout, random)
    groups = shape.groups
    over_outputs, over_inputs = (
        torch.randint(2, (groups, _SUMS, size // groups), generator=generator) * 2.0 - 1
        for size in (shape.outputs, shape.inputs)
    )  # signs, so that no channel counts less than another
    image, weight, slope = image.double(), weight.double(), slope.double()
    how = (shape.stride, shape.padding, shape.dilation, shape.groups)
    few = _summed_weight(weight, over_outputs)
    sums = _summed(slope, over_outputs)
    seen = weight.reshape(groups, -1, *weight.shape[1:])
    few_inputs = torch.einsum("gkc,gochw->gokhw", over_inputs.double(), seen).flatten(0, 1)
    sizes = (count, groups * _SUMS, *shape.size)
    right_image: Tensor = conv2d_input(sizes, few_inputs, slope, *how)  # type: ignore[no-untyped-call]
    right_weight: Tensor = conv2d_weight(image, [*few.shape], sums, *how)  # type: ignore[no-untyped-call]
    pairs = [
        (_summed(output, over_outputs), nn.functional.conv2d(image, few, None, *how)),
        (_summed(into_image, over_inputs), right_image),
        (_summed_weight(into_weight, over_outputs), right_weight),
    ]
    errors = [float((got - right).norm() / right.norm().clamp_min(1e-30)) for got, right in pairs]
    return max(float("inf") if math.isnan(error) else error for error in errors)


def _summed(values: Tensor, sums: Tensor) -> Tensor:
    """``(N, C, H, W)`` to ``(N, G * K, H, W) float64`` by ``(G, K, C / G)``."""
    count, _, *size = values.shape
    by_group = values.double().reshape(count, len(sums), -1, *size)
    return torch.einsum("gkc,ngchw->ngkhw", sums.double(), by_group).flatten(1, 2)


def _summed_weight(weight: Tensor, sums: Tensor) -> Tensor:
    """``(O, C / G, kh, kw)`` to ``(G * K, C / G, kh, kw) float64`` by ``(G, K, O / G)``."""
    by_group = weight.double().reshape(len(sums), -1, *weight.shape[1:])
    return torch.einsum("gko,gochw->gkchw", sums.double(), by_group).flatten(0, 1)


def _step(
    shape: ConvShape,
    image: Tensor,
    weight: Tensor,
    layout: LayoutName,
    random: Callable[..., Tensor],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Output, its gradients into image and weight, and the output's gradient that gave them."""
    memory_format = FORMATS[layout]
    image = image.clone(memory_format=memory_format).requires_grad_()
    weight = weight.clone(memory_format=memory_format).requires_grad_()
    output = nn.functional.conv2d(
        image,
        weight,
        stride=shape.stride,
        padding=shape.padding,
        dilation=shape.dilation,
        groups=shape.groups,
    )
    slope = random(*output.shape).clone(memory_format=memory_format)
    into_image, into_weight = torch.autograd.grad(output, (image, weight), slope)
    return output.detach(), into_image, into_weight, slope
