"""What is kept of each tensor while the calibration images stream by: constant memory."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from edgeres.errors import ModelError
from edgeres.quantization.forward import Observed
from edgeres.quantization.histogram import GrowingHistogram
from edgeres.quantization.ranges import Summary, choose_all
from edgeres.quantization.table import TensorStats


class TensorCollector:
    """Running statistics of one activation tensor.

    Extremes and the histogram do not depend on the order or the batches of the images at all. Sums
    are of float32 values in float64, which is exact for thousands of images of like magnitude, and
    are rounded to float32 at the end.
    """

    def __init__(self, name: str, shape: tuple[int, ...]) -> None:
        self.name = name
        self.shape = shape
        self.images = 0
        self.low = math.inf
        self.high = -math.inf
        self._low_sum = 0.0
        self._high_sum = 0.0
        self._histogram = GrowingHistogram()
        self._mean_sum: NDArray[np.float64] | None = None
        self._square_sum: NDArray[np.float64] | None = None

    def add(self, seen: Observed) -> None:
        """Adds some images.

        Raises:
            ModelError: The tensor holds NaN or Inf.
        """
        low, high = float(seen.low.min()), float(seen.high.max())
        mean = 0.0 if seen.channel_mean is None else float(seen.channel_mean.max())
        # max() hands NaN on; the reductions inside the engine may swallow it.
        if not all(map(math.isfinite, (low, high, mean, float(seen.sample.max())))):
            raise ModelError(
                f"activation {self.name} holds NaN or Inf for a calibration image.",
                hint="The FP32 model overflows; check its weights and the preprocessing.",
            )
        self.images += len(seen.low)
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._low_sum += float(seen.low.astype(np.float64).sum())
        self._high_sum += float(seen.high.astype(np.float64).sum())
        self._histogram.add(seen.sample, max(-low, high))
        if seen.channel_mean is not None:
            self._add_channels(seen.channel_mean, seen.sample)

    def _add_channels(self, mean: NDArray[np.float32], sample: NDArray[np.float32]) -> None:
        count, channels = mean.shape
        values = sample.reshape(count, channels, -1)
        squares = np.einsum("ncs,ncs->nc", values, values) / np.float32(values.shape[2])
        if self._mean_sum is None or self._square_sum is None:
            self._mean_sum = np.zeros(channels)
            self._square_sum = np.zeros(channels)
        self._mean_sum += mean.astype(np.float64).sum(axis=0)
        self._square_sum += squares.astype(np.float64).sum(axis=0)

    def summary(self) -> Summary:
        """Everything that the calibrators need."""
        return Summary(
            low=self.low,
            high=self.high,
            mean_low=float(np.float32(self._low_sum / self.images)),
            mean_high=float(np.float32(self._high_sum / self.images)),
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
        empty = np.zeros(0, np.float32)
        mean, square = self._mean_sum, self._square_sum
        ranges = choose_all(self.summary(), percentile=percentile)
        if whole:
            ranges = dict.fromkeys(ranges, ranges["minmax"])
        return TensorStats(
            shape=self.shape,
            low=self.low,
            high=self.high,
            zeros=float(np.float32(self._histogram.zeros / max(self._histogram.total, 1))),
            ranges=ranges,
            channel_mean=empty if mean is None else (mean / self.images).astype(np.float32),
            channel_square=empty if square is None else (square / self.images).astype(np.float32),
        )
