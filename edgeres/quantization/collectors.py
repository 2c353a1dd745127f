"""What is kept of each tensor while the calibration images stream by: constant memory.

Extremes and channel moments are of every value. The histogram is of a sample: large tensors give
:data:`SAMPLE` values an image, one at a random place in each of as many equal parts of the tensor,
so that all channels and the whole map are seen alike and the places differ from image to image.
The places follow from the image alone: order and batches of the images change nothing.
"""

from __future__ import annotations

import math
import zlib

import numpy as np
from numpy.typing import NDArray

from edgeres.errors import ModelError
from edgeres.quantization.histogram import GrowingHistogram
from edgeres.quantization.ranges import Summary, choose_all
from edgeres.quantization.table import TensorStats

#: Values of one tensor that one image gives to the histogram; smaller tensors give all of theirs.
SAMPLE = 4096
#: Values that are looked at together: they stay in the cache for all that is asked of them.
_BLOCK = 1 << 16
_ONES = np.ones(4096, np.float32)
_LARGEST = np.finfo(np.float32).max


class Places:
    """Where some images are sampled in tensors of any size: from the images alone.

    Attributes:
        seeds: One number an image, which follows from its content.
    """

    def __init__(self, images: NDArray[np.float32]) -> None:
        """Draws for ``(N, ...) float32`` images, the same for the same image."""
        self.seeds = [zlib.crc32(np.ascontiguousarray(image).data) for image in images]
        self._parts = np.arange(SAMPLE) + np.stack(
            [np.random.default_rng(seed).random(SAMPLE, np.float32) for seed in self.seeds]
        )
        self._known: dict[int, NDArray[np.int64]] = {}

    def of(self, size: int) -> NDArray[np.int64]:
        """``(N, SAMPLE) int64`` places in a tensor of ``size`` numbers an image."""
        if size not in self._known:
            self._known[size] = (self._parts * (size / SAMPLE)).astype(np.int64)
        return self._known[size]


class TensorCollector:
    """Running statistics of one activation tensor.

    Extremes and the histogram do not depend on the order or the batches of the images at all. Sums
    are of float32 values in float64, which is exact for thousands of images of like magnitude, and
    are rounded to float32 at the end.
    """

    def __init__(
        self, name: str, shape: tuple[int, ...], *, moments: bool, rectified: bool
    ) -> None:
        """Begins with nothing seen.

        Args:
            name: Of the tensor.
            shape: Without the batch.
            moments: Whether the channels' mean and mean square are wanted.
            rectified: Whether the graph alone says that no value is negative.
        """
        self.name = name
        self.shape = shape
        self.images = 0
        self.low = 0.0 if rectified else math.inf
        self.high = -math.inf
        self._rectified = rectified
        self._histogram = GrowingHistogram()
        channels = shape[0] if moments and shape else 0
        self._sums = np.zeros((2, channels))

    def add(self, values: NDArray[np.float32], places: Places) -> None:
        """Adds some images.

        Args:
            values: ``(N, *shape) float32``.
            places: Of these images.

        Raises:
            ModelError: The tensor holds NaN or Inf.
        """
        count, channels = len(values), self._sums.shape[1]
        rows = values.reshape(count * (channels or 1), -1)
        moments = np.empty((2, len(rows)), np.float32)
        low, high = np.float32(self.low), np.float32(-np.inf)
        step = max(1, _BLOCK // rows.shape[1])
        for start in range(0, len(rows), step):
            block = rows[start : start + step]
            # These hand NaN on; Python's own min and max would not.
            high = np.maximum(high, block.max())
            if not self._rectified:
                low = np.minimum(low, block.min())
            if channels:
                moments[:, start : start + step] = _row_moments(block)
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ModelError(
                f"activation {self.name} holds NaN or Inf for a calibration image.",
                hint="The FP32 model overflows; check its weights and the preprocessing.",
            )
        self.images += count
        self.low, self.high = min(self.low, float(low)), max(self.high, float(high))
        if channels:
            of_image = moments.reshape(2, count, channels) / np.float32(rows.shape[1])
            self._sums += of_image.astype(np.float64).sum(axis=1)
        self._histogram.add(_sampled(values, places), float(max(-low, high)))

    def summary(self) -> Summary:
        """Everything that the calibrators need."""
        return Summary(
            low=self.low,
            high=self.high,
            counts=self._histogram.counts,
            width=self._histogram.width,
            zeros=self._histogram.zeros,
        )

    def stats(self, *, percentile: float, whole: bool = False) -> TensorStats:
        """Statistics and the range of every calibrator.

        Args:
            percentile: Share of values that the percentile calibrator keeps, in percent.
            whole: All calibrators keep the whole range. For the image: its 256 pixel values then
                fall on 256 levels, which no narrower range can better.
        """
        ranges = choose_all(self.summary(), percentile=percentile)
        if whole:
            ranges = dict.fromkeys(ranges, ranges["minmax"])
        mean, square = (self._sums / self.images).astype(np.float32)
        return TensorStats(
            shape=self.shape,
            low=self.low,
            high=self.high,
            zeros=float(np.float32(self._histogram.zeros / max(self._histogram.total, 1))),
            ranges=ranges,
            channel_mean=mean,
            channel_square=square,
        )


def _row_moments(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """``(2, R)`` sum and sum of squares of each row of ``(R, L)``."""
    total = np.zeros((2, len(rows)), np.float32)
    # In pieces: a long sum would be split among threads, and depend on their number.
    with np.errstate(over="ignore"):  # squares of values above 1e19
        for start in range(0, rows.shape[1], len(_ONES)):
            piece = rows[:, start : start + len(_ONES)]
            total[0] += np.vecdot(piece, _ONES[: piece.shape[1]])
            total[1] += np.vecdot(piece, piece)
    return np.clip(total, -_LARGEST, _LARGEST, out=total)


def _sampled(values: NDArray[np.float32], places: Places) -> NDArray[np.float32]:
    """``(N, SAMPLE)`` values of each image, or all of them."""
    flat = values.reshape(len(values), -1)
    if flat.shape[1] <= SAMPLE:
        return flat
    at = places.of(flat.shape[1])
    return np.stack([np.take(of_image, where) for of_image, where in zip(flat, at, strict=True)])
