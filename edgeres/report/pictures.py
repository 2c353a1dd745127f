"""What a sample looks like on a page: an image, or numbers over frequency and time as grey."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgeres.data.preprocess import COLOURS, Preprocess
from edgeres.data.types import Sample

if TYPE_CHECKING:
    from PIL import Image


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
