"""What a model answered on a labelled set: logits and labels, kept with their origin in one file.

A baseline is such a file, so a device that has nothing but the engine can still judge it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgeres.errors import ArtefactError, DataError, ModelError
from edgeres.evaluation.distinct import SKETCH, Sketches
from edgeres.system.stored_arrays import arrays_digest, load_arrays, save_arrays

SCHEMA = 1
_ARRAYS = {"logits", "labels"}
_SKETCHES = "sketches"
_HINT = "`edgeres convert` writes one to baseline/predictions.npz in its output."
_WHAT = "a file of predictions"


@dataclass(frozen=True)
class Predictions:
    """Logits and labels of one model on one data set, sample by sample in the data set's order.

    Attributes:
        logits: ``(N, K)`` float32, as the model gave them, NaN and Inf included.
        labels: ``(N,)`` int64, each in ``[0, K)``.
        name: What answered, for messages and reports, e.g. ``onnxruntime/model.onnx``.
        model_sha256: SHA-256 of the file that answered, empty where it is not known.
        data_fingerprint: Fingerprint of the data set, empty where it is not known.
        class_names: Names of the classes, or empty.
        sketches: ``(N, 16) int16``, by which the same image is known again
            (:mod:`edgeres.evaluation.distinct`); ``None`` takes every sample for another image.

    Raises:
        DataError: No samples, or labels that do not fit the logits.
        ModelError: Logits that are not one row of at least two numbers for each label.
    """

    logits: NDArray[np.float32]
    labels: NDArray[np.int64]
    name: str = ""
    model_sha256: str = ""
    data_fingerprint: str = ""
    class_names: tuple[str, ...] = ()
    sketches: Sketches | None = None

    def __post_init__(self) -> None:
        """Checks shapes, types and the range of the labels."""
        who = self.name or "predictions"
        if self.labels.ndim != 1 or self.labels.dtype != np.int64 or len(self.labels) == 0:
            raise DataError(
                f"{who}: expected labels of shape (N,) and type int64 with N >= 1, got "
                f"{self.labels.shape} {self.labels.dtype}.",
                hint="Give a data set with at least one labelled image.",
            )
        if (
            self.logits.ndim != 2
            or self.logits.dtype != np.float32
            or len(self.logits) != len(self.labels)
            or self.logits.shape[1] < 2
        ):
            raise ModelError(
                f"{who}: expected logits of shape ({len(self.labels)}, K >= 2) and type float32, "
                f"got {self.logits.shape} {self.logits.dtype}.",
                hint="The model must give one row of class scores for each image.",
            )
        lowest, highest = int(self.labels.min()), int(self.labels.max())
        hint = "Use the data set that the model was trained for."
        if lowest == 1 and highest == self.classes:
            hint = "The labels look 1-based: subtract 1, for classes are counted from 0."
        if self.class_names and len(self.class_names) != self.classes:
            raise DataError(
                f"{who}: the data set has {len(self.class_names)} classes, the model gives "
                f"{self.classes} scores.",
                hint=hint,
            )
        if self.sketches is not None and (
            self.sketches.shape != (len(self.labels), SKETCH) or self.sketches.dtype != np.int16
        ):
            raise DataError(
                f"{who}: expected sketches of shape ({len(self.labels)}, {SKETCH}) and type int16, "
                f"got {self.sketches.shape} {self.sketches.dtype}.",
                hint="Answer the images again.",
            )
        if lowest < 0 or highest >= self.classes:
            raise DataError(
                f"{who}: the model has {self.classes} classes, the labels run from {lowest} to "
                f"{highest}.",
                hint=hint,
            )

    @property
    def samples(self) -> int:
        """Number of samples, N."""
        return len(self.labels)

    @property
    def classes(self) -> int:
        """Number of classes, K."""
        return int(self.logits.shape[1])

    @cached_property
    def finite(self) -> NDArray[np.bool_]:
        """``(N,)``: whether all logits of a sample are numbers, neither NaN nor Inf."""
        return np.asarray(np.isfinite(self.logits).all(axis=1))

    @cached_property
    def predicted(self) -> NDArray[np.int64]:
        """``(N,)``: the class with the largest logit, -1 where a logit is NaN or Inf."""
        return np.where(self.finite, np.argmax(self.logits, axis=1), -1).astype(np.int64)

    @cached_property
    def correct(self) -> NDArray[np.bool_]:
        """``(N,)``: whether the predicted class is the label."""
        return np.asarray(self.predicted == self.labels)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over logits, labels, sketches and origin, the same on every machine."""
        return arrays_digest(self._arrays(), self._about())

    def save(self, path: Path) -> None:
        """Writes a ``.npz`` file, whole or not at all; equal predictions give equal bytes.

        Raises:
            StorageError: The file cannot be written.
        """
        save_arrays(path, self._arrays(), self._about())

    def _arrays(self) -> dict[str, NDArray[Any]]:
        arrays: dict[str, NDArray[Any]] = {"logits": self.logits, "labels": self.labels}
        return arrays if self.sketches is None else {**arrays, _SKETCHES: self.sketches}

    def _about(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "name": self.name,
            "model_sha256": self.model_sha256,
            "data_fingerprint": self.data_fingerprint,
            "class_names": list(self.class_names),
        }


@dataclass(frozen=True)
class _About:
    """What a file says of itself beside its arrays."""

    schema: Literal[1]
    name: str
    model_sha256: str
    data_fingerprint: str
    class_names: tuple[str, ...]


def load_predictions(path: Path) -> Predictions:
    """Reads a file written by :meth:`Predictions.save` and checks its digest.

    Raises:
        ArtefactError: No such file, another kind of file, or content that is not what was saved.
    """
    arrays, about = load_arrays(path, _About, what=_WHAT, hint=_HINT)
    if arrays.keys() - {_SKETCHES} != _ARRAYS:
        raise ArtefactError(
            f"{path}: is not {_WHAT} (expected the arrays {sorted(_ARRAYS)}, got "
            f"{sorted(arrays)[:5]}).",
            hint=_HINT,
        )
    try:
        return Predictions(
            logits=arrays["logits"],
            labels=arrays["labels"],
            name=about.name,
            model_sha256=about.model_sha256,
            data_fingerprint=about.data_fingerprint,
            class_names=about.class_names,
            sketches=arrays.get(_SKETCHES),
        )
    except (DataError, ModelError) as error:
        raise ArtefactError(f"{path}: {error.message}", hint=error.hint) from error
