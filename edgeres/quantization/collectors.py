"""What is kept of each tensor while the calibration images stream by: constant memory.

Extremes and channel moments are of every value. The histogram is of a sample.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from edgeres.calibrators import choose_all
from edgeres.calibrators.base import Summary
from edgeres.errors import ModelError
from edgeres.quantization.batch_statistics import BatchStatistics
from edgeres.quantization.histogram import GrowingHistogram
from edgeres.quantization.table import TensorStats

#: Images whose samples are counted at once: each count goes through all bins.
_TOGETHER = 4


class TensorCollector:
    """Running statistics of one activation tensor.

    Extremes and the histogram do not depend on the order or the batches of the images at all. Sums
    are of float32 values in float64, which is exact for thousands of images of like magnitude, and
    are rounded to float32 at the end.
    """

    def __init__(self, name: str, shape: tuple[int, ...]) -> None:
        """Begins with nothing seen.

        Args:
            name: Of the tensor.
            shape: Without the batch.
        """
        self.name = name
        self.shape = shape
        self.images = 0
        self.low = math.inf
        self.high = -math.inf
        self._histogram = GrowingHistogram()
        self._waiting: list[NDArray[np.float32]] = []
        self._sums = np.zeros((2, 0))

    def add(self, seen: BatchStatistics) -> None:
        """Adds some images.

        Raises:
            ModelError: The tensor holds NaN or Inf.
        """
        if not (math.isfinite(seen.low) and math.isfinite(seen.high)):
            raise ModelError(
                f"activation {self.name} holds NaN or Inf for a calibration image.",
                hint="The FP32 model overflows; check its weights and the preprocessing.",
            )
        if not self.images:
            self._sums = np.zeros((2, seen.mean.shape[1]))
        self.images += len(seen.samples)
        self.low, self.high = min(self.low, seen.low), max(self.high, seen.high)
        self._sums += np.stack([seen.mean, seen.square]).astype(np.float64).sum(axis=1)
        self._waiting.append(seen.samples)
        if sum(map(len, self._waiting)) >= _TOGETHER:
            self._count()

    def _count(self) -> None:
        if self._waiting:
            samples = np.concatenate([samples.reshape(-1) for samples in self._waiting])
            self._histogram.add(samples, max(-self.low, self.high))
            self._waiting.clear()

    def summary(self) -> Summary:
        """Everything that the calibrators need."""
        self._count()
        return Summary(
            low=self.low,
            high=self.high,
            counts=self._histogram.counts,
            width=self._histogram.width,
            zeros=self._histogram.zeros,
        )

    def stats(self, *, whole: bool = False) -> TensorStats:
        """Statistics and the range of every calibrator.

        Args:
            whole: All calibrators keep the whole range. For the image: its 256 pixel values then
                fall on 256 levels, which no narrower range can better.
        """
        ranges = choose_all(self.summary())
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
