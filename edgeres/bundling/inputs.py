"""Whatever a caller has as an image, as a data set that is decoded one image at a time."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeres.data.decode import decode_bytes, decode_image
from edgeres.data.features import as_features
from edgeres.data.preprocess import Preprocess
from edgeres.data.sample_file import read_sample
from edgeres.data.types import UNLABELLED, Sample
from edgeres.errors import DataError, UsageError
from edgeres.graph.summary import TensorSpec

ImageInput: TypeAlias = (
    "str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image | NDArray[Any]"
)
"""A path, the content of an image file, a Pillow image, or an array: 8-bit pixels, or features."""


def as_several(
    images: ImageInput | Iterable[ImageInput], taken: TensorSpec, preprocess: Preprocess
) -> tuple[Iterable[ImageInput], bool]:
    """What a caller gave as a number of samples, and whether it was one alone.

    Args:
        images: One sample, or several; an array of one dimension more than a sample is several.
        taken: What the engine takes, by whose shape an array of features is one or several.
        preprocess: How a sample becomes numbers.

    Raises:
        UsageError: Neither.
    """
    if isinstance(images, str | bytes | bytearray | memoryview | os.PathLike | Image.Image):
        return [images], True
    if isinstance(images, np.ndarray):
        colour = images.ndim == 3 and images.shape[2] == 3
        one = images.ndim < len(taken.shape) if preprocess.features else images.ndim == 2 or colour
        return ([images], True) if one else (list(images), False)
    if not isinstance(images, Iterable):
        raise UsageError(
            f"expected an image or a number of them, got {type(images).__name__}.",
            hint="Give a path, the bytes of a file, a Pillow image, an array, or a list of these.",
        )
    return images, False


@dataclass(frozen=True, eq=False)
class Inputs:
    """Images of a call, unlabelled; see :class:`edgeres.data.types.Dataset`.

    Attributes:
        images: What the caller gave.
        name: For messages.
        class_names: None: nothing is known of them.
        features: Whether arrays of floats are meant, which are the network's input already.
        first: Number of the first of them in the call.
    """

    images: tuple[ImageInput, ...]
    name: str = "images"
    class_names: tuple[str, ...] = ()
    features: bool = False
    first: int = 0

    @property
    def labels(self) -> NDArray[np.int64]:
        """None of them is known."""
        return np.full(len(self.images), UNLABELLED, np.int64)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the images' names: a call has no identity that would be kept."""
        names = [self.image_name(index) for index in range(len(self))]
        return hashlib.sha256(repr(names).encode()).hexdigest()

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)

    def image(self, index: int) -> Sample:
        """One image in mode ``L`` or ``RGB``, as a viewer shows it: EXIF orientation is applied.

        A path that ends in ``.npy`` is features, and so is an array where the network takes those.

        Raises:
            DataError: It cannot be read, or is no 8-bit grey or RGB array.
        """
        image, name = self.images[index], self.image_name(index)
        if isinstance(image, Image.Image):
            return decode_image(image, name)
        if isinstance(image, bytes | bytearray | memoryview):
            return decode_bytes(bytes(image), name)
        if isinstance(image, np.ndarray):
            if self.features:
                return as_features(image, name)
            colour = image.ndim == 3 and image.shape[2] == 3
            if image.dtype != np.uint8 or not (image.ndim == 2 or colour) or image.size == 0:
                raise DataError(
                    f"{name}: expected (H, W) or (H, W, 3) uint8, got {image.shape} {image.dtype}.",
                    hint="Give 8-bit grey or RGB, or use infer() for preprocessed arrays.",
                )
            return Image.fromarray(image)
        if isinstance(image, str | os.PathLike):
            return read_sample(Path(image))
        raise DataError(
            f"{name}: expected a path, the bytes of an image file, a Pillow image or an array, got "
            f"{type(image).__name__}.",
            hint="Give one of these, or a list of them.",
        )

    def image_name(self, index: int) -> str:
        """Path, or position in the call."""
        image = self.images[index]
        return (
            repr(os.fspath(image))
            if isinstance(image, str | os.PathLike)
            else f"image {self.first + index}"
        )

    def subset(self, indices: Sequence[int]) -> Inputs:
        """The images at these indices, in that order."""
        images = tuple(self.images[int(index)] for index in indices)
        return replace(self, images=images, first=self.first + (int(indices[0]) if indices else 0))
