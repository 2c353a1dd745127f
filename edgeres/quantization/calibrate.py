"""The calibration stage: images through the FP32 model, once, into a calibration table."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeres.errors import DataError, UsageError
from edgeres.files import file_sha256
from edgeres.quantization.collectors import Places, TensorCollector
from edgeres.quantization.forward import chunks
from edgeres.quantization.observed import ObservedModel
from edgeres.quantization.output_ranges import ShownImages, with_output_ranges
from edgeres.quantization.table import CALIBRATORS, CalibrationTable, Calibrator


def calibrate(
    onnx: Path,
    batches: Iterable[NDArray[np.float32]],
    *,
    calibrator: Calibrator = "output",
    percentile: float = 99.999,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    total: int = 0,
) -> CalibrationTable:
    """Runs calibration images through an FP32 model and records its activations.

    One pass, memory flat in the number of images, and the same table for any batch size and order.
    The plain calibrators choose their ranges from that pass; ``calibrator`` says whose are used
    later.

    Args:
        onnx: FP32 model in normal form with a dynamic batch.
        batches: Preprocessed images, each ``(N, C, H, W) float32``.
        calibrator: ``minmax``, ``percentile``, ``mse`` (least squared error of each tensor), or
            ``output``: those of the three with which the network's output loses least.
        percentile: Share of values that ``percentile`` keeps, in percent.
        threads: Threads of the forward pass; ``None`` leaves it to ONNX Runtime.
        progress: Called with (images done, ``total``).
        total: Number of images that will come, for ``progress`` only.

    Raises:
        DataError: There are fewer than two different images, an image holds NaN or Inf or has
            another shape, or the model answers all of them alike.
        ModelError: The model cannot be quantized, or an activation is NaN or Inf.
        BackendMissingError: ONNX Runtime is not installed.
        UsageError: An unknown calibrator, or a percentile outside (50, 100].
    """
    if calibrator not in CALIBRATORS:
        raise UsageError(
            f"there is no calibrator {calibrator!r}.", hint=f"Choose: {', '.join(CALIBRATORS)}."
        )
    if not 50.0 < percentile <= 100.0:
        raise UsageError(f"percentile must lie in (50, 100], got {percentile}.")
    model = ObservedModel(onnx, threads=threads)
    collectors = {
        name: TensorCollector(
            name, shape, moments=name in model.read_by_layer, rectified=name in model.rectified
        )
        for name, shape in model.shapes.items()
    }
    variety = _Variety()
    shown = ShownImages(model.image_shape)
    for images in chunks(iter(batches)):
        _check_images(images, model.image_shape, variety.images)
        seen, logits = model.run(images)
        places = Places(images)
        for name, collector in collectors.items():
            collector.add(seen[name], places)
        variety.add(images, logits)
        if calibrator == "output":
            shown.add(
                images, places.seeds, {model.output: logits, model.features: seen[model.features]}
            )
        if progress is not None:
            progress(variety.images, max(total, variety.images))
    variety.check()
    tensors = {
        name: collector.stats(percentile=percentile, whole=name == model.image)
        for name, collector in collectors.items()
    }
    if calibrator == "output":
        del model, collectors
        tensors = with_output_ranges(onnx, tensors, shown, threads=threads)
    return CalibrationTable(file_sha256(onnx), variety.images, calibrator, tensors)


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


def _check_images(images: NDArray[np.float32], expected: tuple[int, ...], done: int) -> None:
    if images.shape[1:] != expected or images.dtype != np.float32:
        raise DataError(
            f"the model takes float32 images {list(expected)}; got {images.dtype} "
            f"{list(images.shape[1:])}.",
            hint="Check the preprocessing: size, channels and layout.",
        )
    if not np.isfinite(images).all():
        bad = int(np.flatnonzero(~np.isfinite(images.reshape(len(images), -1)).all(axis=1))[0])
        raise DataError(
            f"calibration image {done + bad} holds NaN or Inf.",
            hint="Check the images and the preprocessing (a std of 0 gives Inf).",
        )
