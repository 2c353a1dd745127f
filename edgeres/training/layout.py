"""In which memory layout a network is trained: the fast one, unless its gradients are wrong there.

Channels last is the faster layout on a CPU (``benchmarks/training_step.py``). Some convolutions
have wrong gradients in it, though: in torch 2.13 (oneDNN 3.12) on CPUs with AVX2, those of one
pixel with a stride and 2 to 7 input channels, which is what the shortcut of a narrow residual
stream is. The weight gradient is off by as much as itself, and sometimes the process hangs or its
memory is damaged. A network with such a layer is trained channels first wherever it runs, so that
one recipe is one computation on every CPU. All other shapes are tried first, see
:mod:`edgeres.training.gradient_check`.

In bfloat16 no layout is right for a larger kernel with a stride on a map of one pixel: on CPUs with
AVX-512 its gradients come from memory that nobody wrote. A trial may find zeros there and pass, so
such a network is refused in that type.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from edgeres.errors import StageError
from edgeres.training.device import TorchDevice
from edgeres.training.gradient_check import (
    FORMATS,
    ConvShape,
    LayoutName,
    conv_shapes,
    wrong_shapes,
)


def has_wrong_gradients(shape: ConvShape) -> bool:
    """Whether a shape is known to train wrongly channels last: the shortcut of a narrow stream."""
    narrow = 2 <= shape.inputs <= 7
    return shape.kernel == (1, 1) and max(shape.stride) > 1 and narrow and shape.groups == 1


def reads_unwritten_memory(shape: ConvShape) -> bool:
    """Whether a shape's gradients in bfloat16 are known to be wrong in both layouts."""
    return max(shape.kernel) > 1 and max(shape.stride) > 1 and shape.size == (1, 1)


def choose_layout(module: nn.Module, images: Tensor, place: TorchDevice) -> LayoutName:
    """The fastest layout in which a network's gradients are right.

    Args:
        module: The network.
        images: ``(N, C, H, W) float32``, one or more of those that it will see, on its device.
        place: Where it computes. Only CPUs are looked at: a GPU takes other code.

    Raises:
        StageError: The gradients are wrong in every layout.
    """
    if place.device.type != "cpu":
        return "channels_last"
    shapes = conv_shapes(module, images[:1])
    unwritten = next(filter(reads_unwritten_memory, shapes), None)
    if unwritten is not None and place.dtype == torch.bfloat16:
        raise StageError(
            f"torch computes wrong gradients in bfloat16 for a {unwritten} on a CPU.",
            hint="Train with `precision: float32`, on larger images, or on a GPU.",
        )
    known = next(filter(has_wrong_gradients, shapes), None)
    if known is not None:
        _tell(f"torch computes wrong gradients for a {known} in channels-last layout")
    else:
        wrong = wrong_shapes(shapes, "channels_last", place.dtype)
        if not wrong:
            return "channels_last"
        _tell(f"the gradients of a {wrong[0][0]} are wrong in channels-last layout ({wrong[0][1]})")
    wrong = wrong_shapes(shapes, "channels_first", place.dtype)
    if wrong:
        raise StageError(
            f"The gradients of a {wrong[0][0]} are wrong on this CPU in every memory layout "
            f"({wrong[0][1]}).",
            hint="Install another version of torch, or train on a GPU.",
        )
    return "channels_first"


def _tell(reason: str) -> None:
    warnings.warn(f"Gradients are computed in channels-first layout: {reason}.", stacklevel=3)


def lay_out(module: nn.Module, layout: LayoutName) -> nn.Module:
    """Puts the weights of all convolutions into a layout, in place."""
    for parameter in module.parameters():
        if parameter.ndim == 4:
            # A copy: torch takes a 1x1 weight for one of either layout and leaves it as it is, and
            # its strides alone then make the convolution choose the other layout.
            parameter.data = lay_out_images(parameter.data, layout)
    return module


def lay_out_images(images: Tensor, layout: LayoutName) -> Tensor:
    """Four-dimensional numbers with the strides of a layout, also where a size is 1."""
    memory_format = FORMATS[layout]
    like = torch.empty(images.shape, device="meta", memory_format=memory_format)
    return images if images.stride() == like.stride() else images.clone(memory_format=memory_format)
