"""The calibration stage: images through the FP32 model, once, into a calibration table."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeres.calibrators import OUTPUT, calibrator_names
from edgeres.errors import DataError, UsageError
from edgeres.quantization.collectors import TensorCollector
from edgeres.quantization.forward import chunks
from edgeres.quantization.observed import ObservedModel
from edgeres.quantization.output_ranges import ShownImages, with_output_ranges
from edgeres.quantization.table import CalibrationTable
from edgeres.system.files import file_sha256
from edgeres.system.memory import give_back
from edgeres.system.progress import ProgressCallback


def calibrate(
    onnx: Path,
    batches: Iterable[NDArray[np.float32]],
    *,
    calibrator: str = OUTPUT,
    threads: int | None = None,
    progress: ProgressCallback | None = None,
    total: int = 0,
) -> CalibrationTable:
    """Runs calibration images through an FP32 model and records its activations.

    One pass, memory flat in the number of images, and the same table for any batch size and order.
    The plain calibrators choose their ranges from that pass; ``calibrator`` says whose are used
    later.

    Args:
        onnx: FP32 model in normal form; one with a batch of 1 gets single images.
        batches: Preprocessed images, each ``(N, C, H, W) float32``.
        calibrator: One of :func:`~edgeres.calibrators.calibrator_names`.
        threads: Threads of the forward pass; ``None`` leaves it to ONNX Runtime.
        progress: Called with (images done, ``total``).
        total: Number of images that will come, for ``progress`` only.

    Raises:
        DataError: There are fewer than two different images, an image holds NaN or Inf or has
            another shape, or the model answers all of them alike.
        ModelError: The model cannot be quantized, or an activation is NaN or Inf.
        BackendMissingError: ONNX Runtime is not installed.
        UsageError: An unknown calibrator.
    """
    if calibrator not in calibrator_names():
        raise UsageError(
            f"there is no calibrator {calibrator!r}.",
            hint=f"Choose: {', '.join(calibrator_names())}.",
        )
    observed = _observe(onnx, batches, calibrator, threads, progress, total)
    tensors = {
        collector.name: collector.stats(whole=collector.name == observed.image)
        for collector in observed.collectors
    }
    if calibrator == OUTPUT:
        give_back()
        tensors = with_output_ranges(onnx, tensors, observed.shown, threads=threads)
        give_back()
    return CalibrationTable(file_sha256(onnx), observed.images, calibrator, tensors)


@dataclass(frozen=True)
class _Observed:
    """What is left of the pass over all images."""

    image: str
    images: int
    collectors: list[TensorCollector]
    shown: ShownImages


def _observe(
    onnx: Path,
    batches: Iterable[NDArray[np.float32]],
    calibrator: str,
    threads: int | None,
    progress: ProgressCallback | None,
    total: int,
) -> _Observed:
    """The pass; its engine and memory are gone when it ends."""
    model = ObservedModel(onnx, threads=threads)
    collectors = [TensorCollector(name, shape) for name, shape in model.shapes.items()]
    variety = _Variety()
    shown = ShownImages(model.image_shape)
    for observation in model.run(_checked(chunks(iter(batches), model.batch), model.image_shape)):
        for collector in collectors:
            collector.add(observation.tensors[collector.name])
        variety.add(observation.images, observation.output)
        if calibrator == OUTPUT:
            outputs = {model.output: observation.output, model.features: observation.features}
            shown.add(observation.images, observation.places.seeds, outputs)
        if progress is not None:
            progress(variety.images, max(total, variety.images))
    variety.check()
    return _Observed(model.image, variety.images, collectors, shown)


class _Variety:
    """Notices calibration data that can calibrate nothing: too few, constant or all the same."""

    def __init__(self) -> None:
        self.images = 0
        self._first_digest = b""
        self._differ = False
        self._any_varied = False
        self._first_logits: NDArray[np.float32] | None = None
        self._answers_differ = False

    def add(self, images: NDArray[np.float32], logits: NDArray[np.float32]) -> None:
        self.images += len(images)
        if self._first_logits is None:
            self._first_digest = _digest(images[0])
            self._first_logits = logits[0].copy()
        if not self._any_varied:
            flat = images.reshape(len(images), -1)
            self._any_varied = bool((flat.min(axis=1) < flat.max(axis=1)).any())
        if not self._differ:
            self._differ = any(_digest(image) != self._first_digest for image in images)
        if not self._answers_differ:
            self._answers_differ = bool((logits != self._first_logits).any())

    def check(self) -> None:
        if self.images < 2:
            raise DataError(
                f"calibration needs at least 2 images, got {self.images}.",
                hint="Give some hundred images of the kind that the network will see.",
            )
        if not self._any_varied or not self._differ:
            state = "are all the same" if self._any_varied else "are constant"
            raise DataError(
                f"the {self.images} calibration images {state}.",
                hint="Check the data set and the preprocessing (scale, mean, std).",
            )
        if not self._answers_differ:
            raise DataError(
                f"the FP32 model gives the same output for all {self.images} calibration images.",
                hint="The network is dead or the preprocessing flattens its input; check both.",
            )


def _digest(image: NDArray[np.float32]) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(image).tobytes(), digest_size=16).digest()


def _checked(
    batches: Iterator[NDArray[np.float32]], expected: tuple[int, ...]
) -> Iterator[NDArray[np.float32]]:
    """Hands images on that the model can take."""
    done = 0
    for images in batches:
        _check_images(images, expected, done)
        done += len(images)
        yield images


def _check_images(images: NDArray[np.float32], expected: tuple[int, ...], done: int) -> None:
    if images.shape[1:] != expected or images.dtype != np.float32:
        raise DataError(
            f"the model takes float32 images {list(expected)}; got {images.dtype} "
            f"{list(images.shape[1:])}.",
            hint="Check size, channels and layout of the preprocessing, or the features' shape.",
        )
    if not np.isfinite(images).all():
        bad = int(np.flatnonzero(~np.isfinite(images.reshape(len(images), -1)).all(axis=1))[0])
        raise DataError(
            f"calibration image {done + bad} holds NaN or Inf.",
            hint="Check the images and the preprocessing (a std of 0 gives Inf).",
        )
