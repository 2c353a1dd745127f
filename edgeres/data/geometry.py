"""Resize and centre crop of Pillow images, with the size arithmetic of torchvision's transforms.

The same image gives the same bytes as ``torchvision.transforms.Resize`` (whose filters in Pillow
always scale their support to the reduction, that is with antialiasing) followed by ``CenterCrop``
on a Pillow image. A published top-1 of an ImageNet model holds only then. A letterbox gives the
bytes of ``PIL.ImageOps.pad``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
from PIL import Image

from edgeres.data.decode import MAX_PIXELS
from edgeres.data.plain_resize import resize_plain
from edgeres.errors import DataError

Size = int | tuple[int, int]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]

_FILTERS: Mapping[Interpolation, Image.Resampling] = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_TAPS: Mapping[Interpolation, int] = {"bilinear": 2, "bicubic": 4}


def resized_size(height: int, width: int, resize: Size | None) -> tuple[int, int]:
    """Height and width after resizing.

    An integer is the length of the shorter side; the longer one keeps the aspect ratio, rounded
    down. A pair is the exact ``(height, width)``. ``None`` changes nothing.
    """
    if resize is None:
        return height, width
    if isinstance(resize, tuple):
        return resize
    if width <= height:
        return int(resize * height / width), resize
    return resize, int(resize * width / height)


def cropped_size(height: int, width: int, crop: Size | None) -> tuple[int, int]:
    """Height and width after cropping; an integer is a square, ``None`` changes nothing."""
    if crop is None:
        return height, width
    return (crop, crop) if isinstance(crop, int) else crop


def contained_size(height: int, width: int, box: tuple[int, int]) -> tuple[int, int]:
    """Height and width of the largest image of this shape within a box, as Pillow rounds them."""
    inside, beside = box
    if width * inside > beside * height:
        return round(height / width * beside), beside
    if width * inside < beside * height:
        return inside, round(width / height * inside)
    return box


def letterbox_image(
    image: Image.Image,
    box: tuple[int, int],
    interpolation: Interpolation = "bilinear",
    *,
    antialias: bool = True,
    fill: int = 0,
) -> Image.Image:
    """Makes an image as large as it fits into a box, and fills what is left on both sides.

    An odd remainder is rounded half to even on the left and the top.

    Raises:
        DataError: The image is so thin that nothing of it would be left.
    """
    height, width = contained_size(image.height, image.width, box)
    if not (height and width):
        raise DataError(
            f"Expected an image that fits into {box[0]}x{box[1]}, got "
            f"{image.height}x{image.width}, of which less than one pixel would be left.",
            hint="Leave the image out.",
        )
    resized = resize_image(image, (height, width), interpolation, antialias=antialias)
    if (height, width) == box:
        return resized
    colours = len(image.getbands())
    around = Image.new(image.mode, (box[1], box[0]), fill if colours == 1 else (fill,) * colours)
    left, top = round((box[1] - width) * 0.5), round((box[0] - height) * 0.5)
    around.paste(resized, (left, top))
    return around


def resize_image(
    image: Image.Image,
    resize: Size | None,
    interpolation: Interpolation = "bilinear",
    *,
    antialias: bool = True,
) -> Image.Image:
    """Resizes with one of Pillow's filters, or as torch does it without antialiasing.

    Raises:
        DataError: The result would have more than ``MAX_PIXELS`` pixels (a very thin image that is
            resized by its shorter side).
    """
    height, width = resized_size(image.height, image.width, resize)
    if (height, width) == (image.height, image.width):
        return image
    if height * width > MAX_PIXELS:
        raise DataError(
            f"Expected at most {MAX_PIXELS:,} pixels after resizing, got {height}x{width} from an "
            f"image of {image.height}x{image.width}.",
            hint="Leave the image out, or give resize an exact height and width.",
        )
    if antialias or interpolation not in _TAPS:
        return image.resize((width, height), _FILTERS[interpolation])
    pixels = resize_plain(np.asarray(image), (height, width), _TAPS[interpolation])
    return Image.fromarray(pixels)


def center_crop(image: Image.Image, crop: Size | None, fill: int = 0) -> Image.Image:
    """Cuts out the middle; where the image is smaller, ``fill`` is added on both sides.

    An odd remainder of a cut is rounded half to even, an odd remainder of added black goes to the
    right and the bottom.
    """
    height, width = cropped_size(image.height, image.width, crop)
    if (height, width) == (image.height, image.width):
        return image
    top, left = _offset(image.height, height), _offset(image.width, width)
    inside = top >= 0 and left >= 0
    if fill == 0 or inside:
        return image.crop((left, top, left + width, top + height))
    around = Image.new(image.mode, (width, height), fill)
    around.paste(image, (-left, -top))
    return around


def _offset(length: int, target: int) -> int:
    """Start of the middle part along one axis; negative where black must be added."""
    if target > length:
        return -((target - length) // 2)
    return round((length - target) / 2)
