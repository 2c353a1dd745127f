"""Where in its tensors an image is sampled for the histograms of calibration.

A large tensor gives one value at a random place in each of as many equal parts, so that all
channels and the whole map are seen alike and the places differ from image to image. The places
follow from the image alone: order and batches of the images change nothing.
"""

from __future__ import annotations

import zlib
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray


class Places:
    """Where some images are sampled in tensors of any size: from the images alone.

    Attributes:
        SAMPLE: Values of one tensor that one image gives; smaller tensors give all of theirs.
        seeds: One number an image, which follows from its content.
    """

    SAMPLE: ClassVar[int] = 4096

    def __init__(self, images: NDArray[np.float32]) -> None:
        """Draws for ``(N, ...) float32`` images, the same for the same image."""
        self.seeds = [zlib.crc32(np.ascontiguousarray(image).data) for image in images]
        self._parts = np.arange(self.SAMPLE) + np.stack(
            [np.random.default_rng(seed).random(self.SAMPLE, np.float32) for seed in self.seeds]
        )
        self._known: dict[int, NDArray[np.int64]] = {}

    def of(self, size: int) -> NDArray[np.int64]:
        """``(N, SAMPLE) int64`` places in a tensor of ``size`` numbers an image."""
        if size not in self._known:
            self._known[size] = (self._parts * (size / self.SAMPLE)).astype(np.int64)
        return self._known[size]
