"""Augmentation of a whole batch at once: flip, shifted crop, random erasing, normalization.

Everything works on 8-bit pixels and takes its randomness from one generator, so a run is
repeatable and the cost is a few index operations a batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from edgeres.recipe.training import Training

ASPECT_LOW, ASPECT_HIGH = 0.3, 1 / 0.3  # of erased rectangles, as in arXiv:1708.04896


@dataclass(frozen=True)
class Normalization:
    """``(x * scale - mean) / std`` with one mean and deviation a channel."""

    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def apply(self, pixels: Tensor) -> Tensor:
        """Maps ``(N, C, H, W) uint8`` to float32 of the same shape and memory layout."""
        shape = (1, -1, 1, 1)
        mean = torch.tensor(self.mean, device=pixels.device).reshape(shape)
        std = torch.tensor(self.std, device=pixels.device).reshape(shape)
        return (pixels.to(torch.float32) * self.scale - mean) / std


def augment(pixels: Tensor, settings: Training, generator: torch.Generator) -> Tensor:
    """Flips, crops and erases at random.

    Args:
        pixels: ``(N, C, H, W) uint8``.
        settings: Says which of the three happen and how strongly.
        generator: Source of all randomness, on the CPU.

    Returns:
        A new ``(N, C, H, W) uint8`` tensor in channels-last layout.
    """
    shifted = flip_and_crop(pixels, settings.flip, settings.crop_padding, generator)
    if settings.erase_probability == 0:
        return shifted
    return erase(shifted, settings.erase_probability, settings.erase_area, generator)


def flip_and_crop(pixels: Tensor, flip: bool, padding: int, generator: torch.Generator) -> Tensor:
    """Mirrors half of the images and shifts each by up to ``padding`` pixels over black."""
    count, _, height, width = pixels.shape
    device = pixels.device
    top = torch.randint(0, 2 * padding + 1, (count, 1), generator=generator)
    left = torch.randint(0, 2 * padding + 1, (count, 1), generator=generator)
    rows = top + torch.arange(height)
    columns = torch.arange(width).expand(count, width)
    if flip:
        mirrored = torch.rand((count, 1), generator=generator) < 0.5
        columns = torch.where(mirrored, width - 1 - columns, columns)
    columns = left + columns
    padded = torch.nn.functional.pad(pixels, (padding,) * 4)
    image = torch.arange(count, device=device)[:, None, None]
    # Advanced indices around a slice put the channel last: the layout that convolutions want.
    picked = padded[image, :, rows.to(device)[:, :, None], columns.to(device)[:, None, :]]
    return picked.permute(0, 3, 1, 2)


def erase(
    pixels: Tensor, probability: float, area: tuple[float, float], generator: torch.Generator
) -> Tensor:
    """Replaces a random rectangle by uniform noise in a share of the images.

    Args:
        pixels: ``(N, C, H, W) uint8``.
        probability: Chance for each image.
        area: Smallest and largest share of the image; a rectangle longer than the image is cut.
        generator: Source of all randomness, on the CPU.
    """
    count, _, height, width = pixels.shape

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand((count,), generator=generator)

    size = uniform(*area) * height * width
    aspect = torch.exp(uniform(*torch.tensor([ASPECT_LOW, ASPECT_HIGH]).log().tolist()))
    tall = (size * aspect).sqrt().round().clamp(1, height)
    wide = (size / aspect).sqrt().round().clamp(1, width)
    top = (uniform(0, 1) * (height - tall + 1)).floor()
    left = (uniform(0, 1) * (width - wide + 1)).floor()
    chosen = uniform(0, 1) < probability
    noise = torch.randint(0, 256, pixels.shape, generator=generator, dtype=torch.uint8)
    row = torch.arange(height)[None, :]
    column = torch.arange(width)[None, :]
    in_rows = (row >= top[:, None]) & (row < (top + tall)[:, None])
    in_columns = (column >= left[:, None]) & (column < (left + wide)[:, None])
    mask = in_rows[:, :, None] & in_columns[:, None, :] & chosen[:, None, None]
    return torch.where(mask[:, None].to(pixels.device), noise.to(pixels.device), pixels)
