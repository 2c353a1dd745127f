"""Masks: a class number for each pixel of an image, read and brought into the network's size."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeres.data.decode import image_size, open_pixels
from edgeres.data.targets import IGNORED
from edgeres.errors import DataError

if TYPE_CHECKING:
    from edgeres.data.preprocess import Preprocess

_DEEP = ("I", "I;16", "I;16B", "I;16L")


def read_mask(path: Path, image: Path) -> NDArray[np.int32]:
    """Reads a mask as it is stored: grey values, or the indices of a palette.

    Args:
        path: A PNG, or another format that loses nothing: grey of 1, 8 or 16 bits, or a palette,
            whose colours mean nothing.
        image: The image that it belongs to.

    Returns:
        ``(H, W) int32``.

    Raises:
        DataError: It cannot be read, has colours, or has another size than its image.
    """
    pixels = open_pixels(path)
    if pixels.mode not in ("1", "L", "P", *_DEEP) or pixels.format == "JPEG":
        what = "a JPEG, which changes numbers" if pixels.format == "JPEG" else pixels.mode
        raise DataError(
            f"Expected one class number for each pixel in the mask {str(path)!r}, got {what}.",
            hint="Save it as a PNG in grey or with a palette (Pillow modes L, P, I;16).",
        )
    expected = image_size(image)
    if (pixels.height, pixels.width) != expected:
        raise DataError(
            f"Expected the mask {str(path)!r} in the size of its image {str(image)!r}, "
            f"{expected[0]}x{expected[1]}, got {pixels.height}x{pixels.width}.",
            hint="A mask lies over the whole image, upright and before any resize.",
        )
    return np.asarray(pixels).astype(np.int32)


def fit_mask(mask: NDArray[np.int32], preprocess: Preprocess) -> NDArray[np.int32]:
    """Resizes a mask by nearest neighbour and crops it, with the sizes of its image.

    Args:
        mask: ``(H, W) int32``.
        preprocess: What happens to the image.

    Returns:
        ``(H', W') int32``; what lies outside of the image is :data:`IGNORED`.

    Raises:
        DataError: The resized mask would be too large.
    """
    placed = preprocess.place(Image.fromarray(mask), interpolation="nearest", fill=IGNORED)
    return np.array(placed, dtype=np.int32)
