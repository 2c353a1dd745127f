"""Resize and centre crop of Pillow images, with the size arithmetic of torchvision's transforms.

The same image gives the same bytes as ``torchvision.transforms.Resize`` (whose filters in Pillow
always scale their support to the reduction, that is with antialiasing) followed by ``CenterCrop``
on a Pillow image. A published top-1 of an ImageNet model holds only then.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from PIL import Image

from edgeres.data.decode import MAX_PIXELS
from edgeres.errors import DataError

Size = int | tuple[int, int]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]

_FILTERS: Mapping[Interpolation, Image.Resampling] = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


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


def resize_image(
    image: Image.Image, resize: Size | None, interpolation: Interpolation = "bilinear"
) -> Image.Image:
    """Resizes with one of Pillow's filters.

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
    return image.resize((width, height), _FILTERS[interpolation])


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
