"""Small pictures of samples and of what a network says of each pixel, for the report page."""

from __future__ import annotations

import colorsys
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeres.system.files import write_atomic

if TYPE_CHECKING:
    from edgeres.data.preprocess import Preprocess
    from edgeres.data.types import Dataset

_SIDE = 96  # pixels of the longer side
_GOLDEN = 0.618034  # of the colour circle: neighbours in number are far apart in colour


def save_sample(folder: Path, index: int, images: Dataset, preprocess: Preprocess) -> str:
    """Saves one image as the network sees it before normalization, made smaller.

    Args:
        folder: Where to.
        index: Its place in the set.
        images: The set.
        preprocess: How an image becomes numbers.

    Returns:
        Name of the file.
    """
    from PIL import Image

    from edgeres.data.preprocess import COLOURS

    pixels = preprocess.fit(images.image(index))
    if pixels.ndim == 3 and pixels.shape[2] != COLOURS:
        pixels = pixels[..., :COLOURS] if pixels.shape[2] > COLOURS else pixels[..., 0]
    return _save(folder, str(index), Image.fromarray(pixels))


def save_class_map(folder: Path, name: str, classes: NDArray[Any]) -> str:
    """Saves a map ``(H, W)`` of class numbers, each class in its own colour; the file's name."""
    from PIL import Image

    count = int(classes.max(initial=0)) + 1
    hues = [(k * _GOLDEN) % 1.0 for k in range(count)]
    colours = np.array([colorsys.hsv_to_rgb(hue, 0.55, 0.9) for hue in hues])
    colours[0] = 0.12  # the background of most sets
    picture = Image.fromarray((255 * colours[classes]).astype(np.uint8))
    scale = max(1, _SIDE // max(picture.size))
    larger = picture.resize(
        (picture.width * scale, picture.height * scale), Image.Resampling.NEAREST
    )
    return _save(folder, name, larger, lossless=True)


def _save(folder: Path, name: str, picture: Any, *, lossless: bool = False) -> str:
    from PIL import Image

    small = lossless or max(picture.size) <= _SIDE
    resampling = Image.Resampling.NEAREST if lossless else Image.Resampling.BICUBIC
    picture.thumbnail((_SIDE, _SIDE), resampling)
    file = f"{name}.png" if small else f"{name}.jpg"
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG" if small else "JPEG", **({} if small else {"quality": 85}))
    write_atomic(folder / file, buffer.getvalue())
    return file
