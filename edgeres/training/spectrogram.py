"""Augmentation of spectrograms and lines of features: shifts in time, masked times and bands.

SpecAugment (Park et al., arXiv:1904.08779) without its warping: a masked stripe gets the sample's
mean. All randomness comes from one generator on the CPU, so a run is repeatable.
"""

from __future__ import annotations

import torch
from torch import Tensor


def shift_time(values: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Moves each sample by up to ``most`` frames; what comes in repeats the frame at the edge.

    Args:
        values: ``(N, ..., T) float32``.
        most: Frames; 0 leaves the samples alone.
        generator: Source of all randomness, on the CPU.
    """
    if most == 0:
        return values
    count, frames = len(values), values.shape[-1]
    moves = torch.randint(-most, most + 1, (count, 1), generator=generator)
    places = (torch.arange(frames) + moves).clamp(0, frames - 1).to(values.device)
    index = places.reshape(count, *[1] * (values.ndim - 2), frames).expand(values.shape)
    return values.gather(-1, index)


def mask(values: Tensor, widest: int, axis: int, generator: torch.Generator) -> Tensor:
    """Fills one stripe of each sample, 0 to ``widest`` wide, with the sample's mean.

    Args:
        values: ``(N, ...) float32``.
        widest: Of the stripe, in frames or bands; 0 leaves the samples alone.
        axis: Which dimension the stripe is a part of, from the end.
        generator: Source of all randomness, on the CPU.
    """
    if widest == 0:
        return values
    count, length = len(values), values.shape[axis]
    width = torch.randint(0, min(widest, length) + 1, (count, 1), generator=generator)
    start = (torch.rand((count, 1), generator=generator) * (length - width + 1)).floor()
    place = torch.arange(length)[None]
    hidden = ((place >= start) & (place < start + width)).to(values.device)
    shape = [1] * values.ndim
    shape[0], shape[axis] = count, length
    mean = values.mean(dim=tuple(range(1, values.ndim)), keepdim=True)
    return torch.where(hidden.reshape(shape), mean, values)
