"""What the importance functions look at: effective filters, scales and gate derivatives."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from edgeres.modules.answers import outputs_of, scores_of
from edgeres.pruning.groups import ChannelGroup
from edgeres.training.device import TorchDevice
from edgeres.training.layout import choose_layout, lay_out_images

#: Images that gradients are computed of at once.
_AT_ONCE = 16
Batch = tuple[NDArray[np.float32], NDArray[np.int64]]


def effective_filters(module: nn.Module, group: ChannelGroup) -> torch.Tensor:
    """The filters that write each channel, side by side, ``(C, K) float32``.

    A convolution before batch normalization can be scaled at will without changing the network,
    so its filter is taken as the engine will run it: times ``gamma / sqrt(variance + eps)``.
    """
    columns: list[torch.Tensor] = []
    for layer, norm in _writers(module, group):
        weight: torch.Tensor = module.get_submodule(layer).get_parameter("weight").detach()
        weight = weight.flatten(1)
        if norm is not None:
            weight = weight * _fold(norm)[:, None]
        columns.append(weight)
    return torch.cat(columns, dim=1)


def norm_scales(module: nn.Module, group: ChannelGroup) -> torch.Tensor:
    """``gamma`` of every normalization that writes the group, ``(C, L) float32``.

    Where no normalization does, the norm of the filters stands in.
    """
    gammas = [
        module.get_submodule(member.layer).get_parameter("weight").detach()
        for member in group.members
        if member.side == "norm"
    ]
    if not gammas:
        filters = effective_filters(module, group)
        norms: torch.Tensor = torch.linalg.vector_norm(filters, dim=1, keepdim=True)
        return norms
    return torch.stack(gammas, dim=1)


def gate_derivatives(
    module: nn.Module, groups: Sequence[ChannelGroup], batches: Iterable[Batch]
) -> dict[str, torch.Tensor]:
    """Derivative of each image's loss by a factor on each channel of each group.

    The loss is cross-entropy where images have labels. Where none has, it is the outputs along a
    random direction: the mean square of the derivative is then what removing the channel does to
    all outputs in squared error, to second order (Hutchinson's estimate of the Gauss-Newton
    diagonal), each output with the same weight.

    The factor multiplies everything that is written into the channel: for a residual stream the
    outputs of all its normalizations, because pruning removes it from all of them at once.
    Weights take no gradients, and few images are run at once: time and memory went there.

    Args:
        module: In evaluation mode.
        groups: Of that module.
        batches: Images ``(N, C, H, W) float32`` and labels ``(N,) int64``, all below 0 where the
            network is no classifier.

    Returns:
        ``(images, channels) float32`` on the CPU, by group name.
    """
    device = next(module.parameters()).device
    parts: dict[str, list[torch.Tensor]] = {group.name: [] for group in groups}
    sums: dict[str, torch.Tensor] = {}
    handles: list[RemovableHandle] = []

    def watch(name: str) -> Callable[[nn.Module, object, torch.Tensor], None]:
        def on_forward(_: nn.Module, __: object, output: torch.Tensor) -> None:
            value = output.detach().clone()  # an in-place activation follows

            def on_gradient(gradient: torch.Tensor) -> None:
                derivative = gradient * value
                if derivative.dim() > 2:
                    derivative = derivative.flatten(2).sum(2)
                sums[name] = sums[name] + derivative if name in sums else derivative

            output.register_hook(on_gradient)  # type: ignore[no-untyped-call]

        return on_forward

    some = _few_at_once(batches)
    first = next(some)
    layout = choose_layout(module, first[0].to(device), TorchDevice(device, torch.float32))
    directions = torch.Generator(device="cpu").manual_seed(0)
    learned = [parameter.requires_grad for parameter in module.parameters()]
    module.requires_grad_(False)
    for group in groups:
        for layer in gated_layers(group):
            handles.append(module.get_submodule(layer).register_forward_hook(watch(group.name)))
    try:
        with torch.enable_grad():
            for images, labels in itertools.chain([first], some):
                sums.clear()
                shown = lay_out_images(images.to(device), layout).requires_grad_()
                torch.autograd.grad(_loss(module(shown), labels.to(device), directions), shown)
                for name, value in sums.items():
                    parts[name].append(value.cpu())
    finally:
        for parameter, learns in zip(module.parameters(), learned, strict=True):
            parameter.requires_grad_(learns)
        for handle in handles:
            handle.remove()
    return {name: torch.cat(values) for name, values in parts.items()}


def _loss(answer: Any, labels: torch.Tensor, directions: torch.Generator) -> torch.Tensor:
    """Sum over the images of what importance is in units of."""
    if bool((labels >= 0).all()):
        return functional.cross_entropy(scores_of(answer), labels, reduction="sum")
    parts = []
    for output in outputs_of(answer).values():
        signs = torch.randint(0, 2, output.shape, generator=directions, device="cpu") * 2.0 - 1.0
        energy = output.detach().flatten(1).square().sum(1).mean().clamp_min(1e-30)
        parts.append((output * signs.to(output)).sum() / energy.sqrt())
    return torch.stack(parts).sum()


def _few_at_once(batches: Iterable[Batch]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for images, labels in batches:
        for first in range(0, len(images), _AT_ONCE):
            part = slice(first, first + _AT_ONCE)
            yield torch.from_numpy(images[part]), torch.from_numpy(labels[part])


def _writers(module: nn.Module, group: ChannelGroup) -> list[tuple[str, nn.BatchNorm2d | None]]:
    """Layers that add to the channels, with the normalization behind each.

    A squeeze-and-excitation gate multiplies instead; it is left out where a normalization tells
    the layers that add.
    """
    norms = {m.source: module.get_submodule(m.layer) for m in group.members if m.side == "norm"}
    layers = (*group.layers("out"), *group.layers("both"))
    if not norms:
        return [(layer, None) for layer in layers]
    found: list[tuple[str, nn.BatchNorm2d | None]] = []
    for layer in layers:
        norm = norms.get(layer)
        if isinstance(norm, nn.BatchNorm2d):
            found.append((layer, norm))
    return found


def gated_layers(group: ChannelGroup) -> tuple[str, ...]:
    """Layers whose outputs together are the channels.

    In a block with a grouped convolution the channels pass two normalizations one after the other;
    the one behind the grouped convolution speaks for both.
    """
    behind = tuple(
        m.layer for m in group.members if m.side == "norm" and m.source in group.layers("both")
    )
    return behind or group.layers("norm") or group.layers("out")


def _fold(norm: nn.BatchNorm2d) -> torch.Tensor:
    deviation: torch.Tensor = (norm.get_buffer("running_var") + norm.eps).sqrt()
    scale: torch.Tensor = norm.get_parameter("weight").detach() / deviation
    return scale
