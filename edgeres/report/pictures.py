"""Small pictures for the report page: samples, and what a network says of each pixel.

An image is shown as the network sees it, numbers over frequency and time as grey.
"""

from __future__ import annotations

import colorsys
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeres.data.preprocess import COLOURS, Preprocess
from edgeres.data.types import Dataset, Sample
from edgeres.system.files import write_atomic

if TYPE_CHECKING:
    from PIL import Image

_SIDE = 96  # pixels of the longer side
_GOLDEN = 0.618034  # of the colour circle: neighbours in number are far apart in colour


def save_sample(folder: Path, index: int, samples: Dataset, preprocess: Preprocess) -> str | None:
    """Saves what one sample looks like, made smaller.

    Args:
        folder: Where to.
        index: Its place in the set.
        samples: The set.
        preprocess: How a sample becomes numbers.

    Returns:
        Name of the file; ``None`` where there is nothing to draw.
    """
    picture = picture_of(samples.image(index), preprocess)
    return None if picture is None else _save(folder, str(index), picture)


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


def picture_of(sample: Sample, preprocess: Preprocess) -> Image.Image | None:
    """A sample as the network sees it before normalization; ``None`` for a vector of features.

    A spectrogram has its low bands at the bottom; of features with several planes the first is
    shown.

    Raises:
        DataError: It is none that the network takes.
    """
    from PIL import Image

    if preprocess.log_mel is None and not preprocess.features:
        pixels = preprocess.fit(sample)
        if pixels.ndim == 3 and pixels.shape[2] != COLOURS:
            pixels = pixels[..., :COLOURS] if pixels.shape[2] > COLOURS else pixels[..., 0]
        return Image.fromarray(pixels)
    values = preprocess.apply(sample)
    if values.ndim > 2 and preprocess.layout == "nhwc":
        values = np.moveaxis(values, -1, 0)
    if values.ndim < 2:
        return None
    plane = values.reshape(-1, *values.shape[-2:])[0]
    return Image.fromarray(np.ascontiguousarray(_grey(plane)[::-1]))


def _grey(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The smallest number black, the largest white."""
    least, most = float(values.min()), float(values.max())
    share = (values - least) / (most - least) if most > least else np.zeros_like(values)
    grey: NDArray[np.uint8] = np.round(255 * share).astype(np.uint8)
    return grey


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
