"""The calibrator ``output``: of several ranges, those with which the network's output loses least.

The range of least squared error of a tensor is not always the best for the network: large values
may carry the answer, and what is clipped errs in one direction where rounding averages out. So
four calibrators are tried on a few images, all activations in INT8 at once, and judged by the
output and, since a few outputs alone judge by luck, by the features that the last layer reads.
Errors of single images differ by more than calibrators do: each image is compared with itself. A
few images carry most of the noise, though, so what all of them lose together counts as much. Only a
difference that is beyond chance counts, and where a few images leave it open, more are tried.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeres.calibrators import OUTPUT
from edgeres.quantization.activation_trial import ActivationTrial
from edgeres.quantization.table import TensorStats

#: Numbers of all images that are tried at first, about: 6 of 3 x 224 x 224.
_NUMBERS = 6 * 3 * 224 * 224
_FEWEST_IMAGES, _MOST_IMAGES = 4, 64
#: Times as many are tried where the first leave it open.
_MORE = 4
#: The calibrators that are tried beside the first, those only where the way to them does not lose,
#: and how many, the best, see more images.
_TRIED, _WIDEST, _GO_ON = ("midway", "percentile"), ("minmax",), 2
#: Stands unless another is better by this many dB with this confidence, over paired images.
_FIRST = "mse"
_CLEARLY_DB = 0.2
_CONFIDENCE = 0.975
#: Of energies: what nothing is lost of has no logarithm.
_LEAST = 1e-30


class ShownImages:
    """A few calibration images and what the float network makes of them.

    Those with the least seeds are kept: a choice that depends on neither order nor batches.
    """

    def __init__(self, image_shape: tuple[int, ...]) -> None:
        first = max(_FEWEST_IMAGES, _NUMBERS // math.prod(image_shape))
        #: How many are tried at first.
        self.first = min(_MOST_IMAGES, first)
        self._most = min(_MOST_IMAGES, _MORE * first)
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
    energies = _energies(shown.wanted)

    def errors(plain: str, images: slice) -> NDArray[np.float64]:
        return trial.errors({name: tensors[name].ranges[plain] for name in trial.tensors}, images)

    def gain(plain: str) -> _Gain:
        return _gain(noise_db[_FIRST], noise_db[plain], energies[: len(noise_db[plain])])

    first, rest = slice(0, shown.first), slice(shown.first, None)
    noise_db = {plain: errors(plain, first) for plain in (_FIRST, *_TRIED)}
    for plain in _WIDEST if gain("midway").mean >= 0 else ():  # halfway there it would lose already
        noise_db[plain] = errors(plain, first)
    others = [plain for plain in noise_db if plain != _FIRST]
    best = sorted(others, key=lambda plain: -gain(plain).mean)[:_GO_ON]
    if gain(best[0]).mean > _CLEARLY_DB > gain(best[0]).sure and len(energies) > shown.first:
        for plain in (_FIRST, *best):
            noise_db[plain] = np.concatenate([noise_db[plain], errors(plain, rest)])
    clear = [plain for plain in best if gain(plain).sure > _CLEARLY_DB]
    calibrator = max(clear, key=lambda plain: gain(plain).mean, default=_FIRST)
    return {
        name: replace(stats, ranges={**stats.ranges, OUTPUT: stats.ranges[calibrator]})
        for name, stats in tensors.items()
    }


def _energies(wanted: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float64]:
    """``(N, T)`` sums of squares of each image and tensor."""
    rows = [whole.reshape(len(whole), -1).astype(np.float64) for whole in wanted.values()]
    return np.stack([np.einsum("ij,ij->i", each, each) for each in rows], axis=1)


@dataclass(frozen=True)
class _Gain:
    """How much less is lost, in dB, and the lower bound of that by Student's t."""

    mean: float
    sure: float


def _gain(
    before: NDArray[np.float64], after: NDArray[np.float64], energies: NDArray[np.float64]
) -> _Gain:
    """Of ``(N, T)`` errors in dB; the tensors count alike, however much theirs vary among images.

    Half of it is the mean over images, half what all images lose together; the doubt is that of the
    jackknife, each image left out in turn.
    """
    from scipy.stats import t

    count = len(before)
    if count < 2 or (before == after).all():
        return _Gain(0.0, 0.0)
    lost = [10 ** (each / 10) * energies + _LEAST for each in (before, after)]
    differences, (one, other) = before - after, (each.sum(axis=0) for each in lost)

    def judged(mean: NDArray[np.float64], ratio: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(np.mean((mean + 10 * np.log10(ratio)) / 2, axis=-1))

    gain = float(judged(differences.mean(axis=0), one / other))
    others = [np.maximum(each.sum(axis=0) - each, _LEAST) for each in lost]
    without = judged((differences.sum(axis=0) - differences) / (count - 1), others[0] / others[1])
    doubt = math.sqrt((count - 1) / count * float(np.square(without - without.mean()).sum()))
    return _Gain(gain, gain - float(t.ppf(_CONFIDENCE, count - 1)) * doubt)
