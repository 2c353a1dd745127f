"""A whole image set in memory as 8-bit pixels, ready for batch augmentation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from edgeres.data.preprocess import Preprocess
from edgeres.data.types import Dataset
from edgeres.errors import DataError
from edgeres.recipe.training import Training
from edgeres.system.progress import ProgressCallback
from edgeres.training.augment import Normalization, augment

MAX_BYTES = 8 << 30


@dataclass(frozen=True)
class PixelSet:
    """Images ``(N, C, H, W) uint8`` and labels ``(N,) int64`` with their normalization."""

    pixels: torch.Tensor
    labels: torch.Tensor
    normalization: Normalization

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    def inputs(self, rows: slice) -> torch.Tensor:
        """What the network takes, ``(M, C, H, W) float32``."""
        return self.normalization.apply(self.pixels[rows])

    def augmented(
        self, rows: torch.Tensor, settings: Training, generator: torch.Generator
    ) -> torch.Tensor:
        """The same of chosen images, flipped, shifted and erased at random."""
        return self.normalization.apply(augment(self.pixels[rows], settings, generator))


def load_pixels(
    dataset: Dataset,
    preprocess: Preprocess,
    *,
    device: torch.device | None = None,
    progress: ProgressCallback | None = None,
) -> PixelSet:
    """Decodes, resizes and crops every image once; normalization waits until after augmentation.

    Args:
        dataset: The images.
        preprocess: Its resize, crop and channel order are applied here.
        device: Where the pixels go; ``None`` is the CPU.
        progress: Called with (images done, images).

    Raises:
        DataError: An empty set, images of different sizes, or more than ``MAX_BYTES`` of pixels.
    """
    count = len(dataset)
    if count == 0:
        raise DataError(
            f"The training data '{dataset.name}' holds no images.", hint="Check its path."
        )
    normalization = Normalization(preprocess.scale, preprocess.mean, preprocess.std)
    first = _pixels(dataset, 0, preprocess)
    if count * first.nbytes > MAX_BYTES:
        raise DataError(
            f"{count} images of shape {first.shape} need {count * first.nbytes >> 20} MiB, "
            f"training keeps at most {MAX_BYTES >> 20} MiB in memory.",
            hint="Use fewer or smaller images.",
        )
    store = np.empty((count, *first.shape), np.uint8)
    for index in range(count):
        image = first if index == 0 else _pixels(dataset, index, preprocess)
        if image.shape != first.shape:
            raise DataError(
                f"Image {index} of '{dataset.name}' has shape {image.shape}, image 0 has "
                f"{first.shape}.",
                hint="Give a resize and a crop, so that all images come out alike.",
            )
        store[index] = image
        if progress is not None and (index + 1) % 1000 == 0:
            progress(index + 1, count)
    pixels = torch.from_numpy(store).contiguous(memory_format=torch.channels_last)
    labels = torch.from_numpy(np.asarray(dataset.labels, dtype=np.int64))
    return PixelSet(pixels.to(device), labels.to(device), normalization)


def _pixels(dataset: Dataset, index: int, preprocess: Preprocess) -> NDArray[np.uint8]:
    """One image as ``(C, H, W) uint8`` in the network's channel order."""
    pixels = preprocess.fit(dataset.image(index))
    if pixels.ndim == 2:
        return pixels[None]
    ordered = pixels[:, :, ::-1] if preprocess.channel_order == "bgr" else pixels
    return ordered.transpose(2, 0, 1)
