"""The calibrator ``output``: of several ranges, those with which the network's output loses least.

The range of least squared error of a tensor is not always the best for the network: large values
may carry the answer, and what is clipped errs in one direction where rounding averages out. So the
plain calibrators are tried on a few images, all activations in INT8 at once, and judged by the
output and, since a few outputs alone judge by luck, by the features that the last layer reads.
Errors of single images differ by more than calibrators do: only a difference that is beyond chance
counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeres.quantization.activation_trial import ActivationTrial
from edgeres.quantization.ranges import PLAIN
from edgeres.quantization.table import Calibrator, TensorStats

#: Numbers of all images that are tried, about: 8 of 3 x 224 x 224.
_NUMBERS = 8 * 3 * 224 * 224
_FEWEST_IMAGES, _MOST_IMAGES = 4, 64
#: Stands unless another is better by this many dB with this confidence, over paired images.
_FIRST: Calibrator = "mse"
_CLEARLY_DB = 0.2
_CONFIDENCE = 0.975


class ShownImages:
    """A few calibration images and what the float network makes of them.

    Those with the least seeds are kept: a choice that depends on neither order nor batches.
    """

    def __init__(self, image_shape: tuple[int, ...]) -> None:
        self._most = max(_FEWEST_IMAGES, min(_MOST_IMAGES, _NUMBERS // math.prod(image_shape)))
        self._kept: dict[int, tuple[NDArray[np.float32], dict[str, NDArray[np.float32]]]] = {}

    def add(
        self,
        images: NDArray[np.float32],
        seeds: list[int],
        wanted: Mapping[str, NDArray[np.float32]],
    ) -> None:
        """Looks at some images.

        Args:
            images: ``(N, C, H, W) float32``.
            seeds: One number an image.
            wanted: ``(N, ...) float32`` of the float network by tensor name.
        """
        for index, seed in enumerate(seeds):
            if len(self._kept) >= self._most and seed >= max(self._kept):
                continue
            outputs = {name: whole[index].copy() for name, whole in wanted.items()}
            self._kept[seed] = (images[index].copy(), outputs)
            if len(self._kept) > self._most:
                del self._kept[max(self._kept)]

    @property
    def images(self) -> NDArray[np.float32]:
        """``(N, C, H, W) float32`` in a fixed order."""
        return np.stack([self._kept[seed][0] for seed in sorted(self._kept)])

    @property
    def wanted(self) -> dict[str, NDArray[np.float32]]:
        """``(N, ...) float32`` of the float network by tensor name."""
        rows = [self._kept[seed][1] for seed in sorted(self._kept)]
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def with_output_ranges(
    onnx: Path,
    tensors: Mapping[str, TensorStats],
    shown: ShownImages,
    *,
    threads: int | None = None,
) -> dict[str, TensorStats]:
    """Adds the ranges of ``output`` to the statistics of all tensors.

    Args:
        onnx: FP32 model in normal form.
        tensors: Statistics with the ranges of the plain calibrators.
        shown: Calibration images.
        threads: Threads of the trial; ``None`` leaves it to ONNX Runtime.

    Raises:
        StageError: ONNX Runtime failed.
    """
    trial = ActivationTrial(onnx, shown.images, shown.wanted, threads=threads)
    errors = {
        plain: trial.errors({name: tensors[name].ranges[plain] for name in trial.tensors})
        for plain in PLAIN
    }
    gains = {plain: _sure_gain(errors[_FIRST] - error) for plain, error in errors.items()}
    best = max(PLAIN, key=lambda plain: gains[plain])
    chosen = best if gains[best] > _CLEARLY_DB else _FIRST
    return {
        name: replace(stats, ranges={**stats.ranges, "output": stats.ranges[chosen]})
        for name, stats in tensors.items()
    }


def _sure_gain(gains: NDArray[np.float64]) -> float:
    """Lower bound of the mean of paired differences, by Student's t."""
    from scipy.stats import t

    if len(gains) < 2 or not gains.any():
        return 0.0
    doubt = float(gains.std(ddof=1)) / math.sqrt(len(gains))
    return float(gains.mean()) - float(t.ppf(_CONFIDENCE, len(gains) - 1)) * doubt
