"""Augmentation moves, mirrors and erases pixels, and invents none but noise."""

from __future__ import annotations

import numpy as np
import torch

from edgeres.recipe.training import TrainSettings
from edgeres.training.augment import Normalization, augment, erase, flip_and_crop


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(count: int = 64, channels: int = 3, side: int = 9) -> torch.Tensor:
    return torch.randint(1, 256, (count, channels, side, side + 2), generator=seeded(5)).byte()


def test_crop_is_a_shifted_window_over_black() -> None:
    pixels = batch()
    padded = torch.nn.functional.pad(pixels, (2, 2, 2, 2))
    result = flip_and_crop(pixels, False, 2, seeded())
    seen = set()
    for image, source in zip(result, padded, strict=True):
        fits = [
            (top, left)
            for top in range(5)
            for left in range(5)
            if torch.equal(image, source[:, top : top + 9, left : left + 11])
        ]
        assert len(fits) == 1
        seen.add(fits[0])
    assert len(seen) > 15  # of 25 shifts


def test_flip_mirrors_about_half() -> None:
    pixels = batch(400)
    result = flip_and_crop(pixels, True, 0, seeded())
    mirrored = [torch.equal(a, b.flip(-1)) for a, b in zip(result, pixels, strict=True)]
    unchanged = [torch.equal(a, b) for a, b in zip(result, pixels, strict=True)]
    assert all(a != b for a, b in zip(mirrored, unchanged, strict=True))
    assert 150 < sum(mirrored) < 250


def test_nothing_asked_changes_nothing() -> None:
    pixels = batch()
    settings = TrainSettings(flip=False, crop_padding=0, erase_probability=0.0)
    result = augment(pixels, settings, seeded())
    assert torch.equal(result, pixels)
    assert result.is_contiguous(memory_format=torch.channels_last)


def test_erased_part_is_one_rectangle_of_the_size_asked_for() -> None:
    pixels = torch.zeros(300, 1, 20, 20, dtype=torch.uint8)
    result = erase(pixels, 1.0, (0.1, 0.2), seeded())
    for image in result[:, 0]:
        rows = torch.nonzero(image.amax(1)).flatten()
        columns = torch.nonzero(image.amax(0)).flatten()
        height = int(rows[-1] - rows[0]) + 1
        width = int(columns[-1] - columns[0]) + 1
        # noise may be 0 at an edge, rounding may add half a pixel to each side
        assert 0.07 <= height * width / 400 <= 0.25
        inside = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert int(torch.count_nonzero(image)) == int(torch.count_nonzero(inside))


def test_erase_probability() -> None:
    pixels = torch.zeros(600, 3, 12, 12, dtype=torch.uint8)
    result = erase(pixels, 0.25, (0.05, 0.3), seeded())
    share = float((result.amax((1, 2, 3)) > 0).float().mean())
    assert 0.18 < share < 0.32


def test_rectangles_longer_than_the_image_are_cut() -> None:
    pixels = torch.zeros(200, 1, 3, 40, dtype=torch.uint8)
    assert erase(pixels, 1.0, (0.9, 0.95), seeded()).shape == pixels.shape


def test_same_seed_same_result() -> None:
    settings = TrainSettings(erase_probability=0.5)
    first = augment(batch(), settings, seeded(3))
    assert torch.equal(first, augment(batch(), settings, seeded(3)))
    assert not torch.equal(first, augment(batch(), settings, seeded(4)))


def test_normalization_formula() -> None:
    pixels = batch()
    result = Normalization(1 / 255, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)).apply(pixels)
    mean = np.array([0.1, 0.2, 0.3]).reshape(1, 3, 1, 1)
    std = np.array([0.4, 0.5, 0.6]).reshape(1, 3, 1, 1)
    expected = (pixels.numpy().astype(np.float64) / 255 - mean) / std
    assert result.dtype == torch.float32
    assert np.abs(result.numpy() - expected).max() < 1e-6
