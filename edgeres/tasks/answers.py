"""What a model answered on a set of samples, for any task: kept with its origin in one file.

A baseline is such a file, so a device that has nothing but the engine can still judge it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgeres.errors import ArtefactError, DataError
from edgeres.system.stored_arrays import arrays_digest, load_arrays, names_in, save_arrays
from edgeres.tasks.kept import OUTPUT
from edgeres.tasks.metric import Rows

SCHEMA = 2
_SKETCHES = "sketches"
_ROW = "row:"
_HINT = "`edgeres convert` writes one to baseline/predictions.npz in its output."
_WHAT = "a file of answers"


@dataclass(frozen=True)
class Answers:
    """What one model answered on one data set, sample by sample in the data set's order.

    Attributes:
        rows: What the task keeps of each sample, ``(N, ...)`` each, and under ``output:NAME`` what
            is kept of each output, ``(N, D) float32``, NaN and Inf included.
        name: What answered, for messages and reports, e.g. ``onnxruntime/model.onnx``.
        model_sha256: SHA-256 of the file that answered, empty where it is not known.
        data_fingerprint: Fingerprint of the data set, empty where it is not known.
        class_names: Names of the classes, or empty.
        sketches: ``(N, 16) int16``, by which the same input is known again; ``None`` takes every
            sample for another one.

    Raises:
        DataError: No samples, or rows of different numbers of samples.
    """

    rows: Rows
    name: str = ""
    model_sha256: str = ""
    data_fingerprint: str = ""
    class_names: tuple[str, ...] = ()
    sketches: NDArray[np.int16] | None = None

    def __post_init__(self) -> None:
        """Checks that all rows tell of the same samples."""
        counts = {name: len(row) for name, row in self.rows.items()}
        if self.sketches is not None:
            counts[_SKETCHES] = len(self.sketches)
        if len(set(counts.values())) != 1 or 0 in counts.values():
            raise DataError(
                f"{self.name or 'answers'}: expected the same number of samples, at least one, "
                f"everywhere, got {counts}.",
                hint="Answer the samples again.",
            )

    @property
    def samples(self) -> int:
        """Number of samples, N."""
        return len(next(iter(self.rows.values())))

    @property
    def outputs(self) -> dict[str, NDArray[np.float32]]:
        """What was kept of each output, ``(N, D) float32``, by the output's name."""
        return {n.removeprefix(OUTPUT): row for n, row in self.rows.items() if n.startswith(OUTPUT)}

    @cached_property
    def finite(self) -> NDArray[np.bool_]:
        """``(N,)``: whether all outputs of a sample are numbers, neither NaN nor Inf."""
        every = [np.isfinite(values).all(axis=1) for values in self.outputs.values()]
        return np.asarray(np.logical_and.reduce(every))

    @cached_property
    def digest(self) -> str:
        """SHA-256 over rows, sketches and origin, the same on every machine."""
        return arrays_digest(self._arrays(), self._about())

    def save(self, path: Path) -> None:
        """Writes a ``.npz`` file, whole or not at all; equal answers give equal bytes.

        Raises:
            StorageError: The file cannot be written.
        """
        save_arrays(path, self._arrays(), self._about())

    def _arrays(self) -> dict[str, NDArray[Any]]:
        arrays = {f"{_ROW}{name}": row for name, row in self.rows.items()}
        return arrays if self.sketches is None else {**arrays, _SKETCHES: self.sketches}

    def _about(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "name": self.name,
            "model_sha256": self.model_sha256,
            "data_fingerprint": self.data_fingerprint,
            "class_names": list(self.class_names),
            "rows": list(self.rows),
        }


@dataclass(frozen=True)
class _About:
    """What a file says of itself beside its arrays."""

    schema: Literal[2]
    name: str
    model_sha256: str
    data_fingerprint: str
    class_names: tuple[str, ...]
    rows: tuple[str, ...]


def load_answers(path: Path) -> Answers:
    """Reads a file written by :meth:`Answers.save` and checks its digest.

    Raises:
        ArtefactError: No such file, another kind of file, or content that is not what was saved.
    """
    arrays, about = load_arrays(path, _About, what=_WHAT, hint=_HINT)
    try:
        return Answers(
            {name: arrays[f"{_ROW}{name}"] for name in about.rows},
            name=about.name,
            model_sha256=about.model_sha256,
            data_fingerprint=about.data_fingerprint,
            class_names=about.class_names,
            sketches=arrays.get(_SKETCHES),
        )
    except KeyError as error:
        raise ArtefactError(f"{path}: is not {_WHAT} (no {error}).", hint=_HINT) from error
    except DataError as error:
        raise ArtefactError(f"{path}: {error.message}", hint=error.hint) from error


def are_answers(path: Path) -> bool:
    """Whether a file holds answers of some task, and not the scores of a classifier."""
    return any(name.startswith(_ROW) for name in names_in(path))
