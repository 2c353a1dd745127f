"""Images that are all in memory as one uint8 array: the data set behind IDX and NPZ files."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeres.data.planes import Planes
from edgeres.errors import DataError

MAX_CLASSES = 1_000_000
"""A label as high as this is taken for damage, not for a class."""


@dataclass(frozen=True, eq=False)
class ArrayDataset:
    """Labelled images in memory.

    Attributes:
        name: Short name for reports.
        images: ``(N, H, W)`` grey, ``(N, H, W, 3)`` RGB or ``(N, H, W, C)`` of C planes, uint8.
        labels: ``(N,) int64``.
        class_names: Name of each class in label order; empty where not known.
    """

    name: str
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Checks that the arrays belong together.

        Raises:
            DataError: Wrong dtype or shape, or not one label for each image.
        """
        shape = self.images.shape
        if self.images.dtype != np.uint8 or not (
            len(shape) == 3 or (len(shape) == 4 and 1 < shape[3] <= max(shape[1], 3))
        ):
            raise DataError(
                f"Expected images (N, H, W) or (N, H, W, C) uint8 in {self.name}, got {shape} "
                f"{self.images.dtype}.",
                hint="Store 8-bit images, channels last.",
            )
        if min(shape[1:]) == 0:
            raise DataError(f"Expected images of at least one pixel in {self.name}, got {shape}.")
        if self.labels.shape != shape[:1]:
            raise DataError(
                f"Expected one label for each of the {shape[0]} images in {self.name}, got labels "
                f"of shape {self.labels.shape}.",
                hint="Check that the images and the labels come from the same split.",
            )

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over shape, pixels, labels and class names."""
        digest = hashlib.sha256(repr((self.images.shape, self.class_names)).encode())
        digest.update(np.ascontiguousarray(self.images).data)
        digest.update(np.ascontiguousarray(self.labels, dtype="<i8").data)
        return digest.hexdigest()

    def image(self, index: int) -> Image.Image | Planes:
        """One image in mode ``L`` or ``RGB``, or its planes where it has other channels."""
        pixels = self.images[index]
        if pixels.ndim == 3 and pixels.shape[2] != 3:
            return Planes(pixels)
        return Image.fromarray(pixels)

    def image_name(self, index: int) -> str:
        """Name of the set and position of the image in it."""
        return f"{self.name}[{index}]"

    def subset(self, indices: Sequence[int]) -> ArrayDataset:
        """The images at these indices, in that order."""
        rows = np.asarray(indices, dtype=np.int64)
        return ArrayDataset(self.name, self.images[rows], self.labels[rows], self.class_names)


def check_class_numbers(labels: NDArray[np.int64]) -> None:
    """Checks class numbers of a source that names no classes.

    Raises:
        DataError: A label of ``MAX_CLASSES`` or more.
    """
    highest = int(labels.max(initial=-1))
    if highest >= MAX_CLASSES:
        raise DataError(
            f"Expected class numbers under {MAX_CLASSES:,}, got {highest}.",
            hint="Number the classes from 0 on.",
        )
