"""Arithmetic and size of a network: multiply-adds and parameters.

One multiply-add ("MAC") is one weight times one activation, summed. Convolutions and linear layers
are counted; normalization, activations, pooling and sums are not, as in the ResNet paper's table
(He et al., 2015, arXiv:1512.03385) and in most pruning papers.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle


def layer_macs(module: nn.Module, shape: tuple[int, int, int]) -> dict[str, int]:
    """Multiply-adds of every convolution and linear layer for one image.

    Args:
        module: The network; its mode and its weights are left as they are.
        shape: One image, ``(C, H, W)``.

    Returns:
        MACs by layer name, in the order of execution.
    """
    macs: dict[str, int] = {}
    handles: list[RemovableHandle] = []

    def counter(name: str) -> object:
        def count(layer: nn.Module, _: object, output: torch.Tensor) -> None:
            weight = layer.get_parameter("weight")
            # Each output element is a product with one filter: weight[0] for both kinds of layer.
            macs[name] = macs.get(name, 0) + output[0].numel() * math.prod(weight.shape[1:])

        return count

    training = [part for part in module.modules() if part.training]
    for name, part in module.named_modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            handles.append(part.register_forward_hook(counter(name)))  # type: ignore[arg-type]
    first = next(module.parameters(), None)
    device = first.device if first is not None else torch.device("cpu")
    try:
        module.eval()
        with torch.no_grad():
            module(torch.zeros((1, *shape), device=device))
    finally:
        for handle in handles:
            handle.remove()
        for part in training:
            part.training = True
    return macs


def count_macs(module: nn.Module, shape: tuple[int, int, int]) -> int:
    """Multiply-adds of one image of ``shape`` ``(C, H, W)`` through the network."""
    return sum(layer_macs(module, shape).values())


def count_parameters(module: nn.Module) -> int:
    """Number of learned values: weights and biases, normalization included, statistics not."""
    return sum(parameter.numel() for parameter in module.parameters())
