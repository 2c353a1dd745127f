"""What a model answered on a set of samples, for any task: kept with its origin in one file.

A baseline is such a file, so a device that has nothing but the engine can still judge it.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeres.errors import ArtefactError, DataError
from edgeres.system.files import write_atomic
from edgeres.system.stored_json import parse_stored
from edgeres.tasks.kept import OUTPUT
from edgeres.tasks.metric import Rows

SCHEMA = 2
_SKETCHES = "sketches"
_ABOUT = "about"
_ROW = "row:"
_HINT = "`edgeres convert` writes one to baseline/predictions.npz in its output."
_MAX_BYTES = 8 << 30  # 8 GiB: a file that claims more is refused before it is unpacked


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
        parts = hashlib.sha256(self._about().encode())
        for _, array in sorted(self._arrays().items()):
            parts.update(array.tobytes())
        return parts.hexdigest()

    def save(self, path: Path) -> None:
        """Writes a ``.npz`` file, whole or not at all; equal answers give equal bytes.

        Raises:
            StorageError: The file cannot be written.
        """
        about = json.dumps(json.loads(self._about()) | {"digest": self.digest}, sort_keys=True)
        buffer = io.BytesIO()
        arrays: dict[str, Any] = dict(sorted(self._arrays().items()))
        arrays[_ABOUT] = np.frombuffer(about.encode(), dtype=np.uint8)
        np.savez(buffer, **arrays)
        write_atomic(path, buffer.getvalue())

    def _arrays(self) -> dict[str, NDArray[Any]]:
        arrays = {f"{_ROW}{name}": row for name, row in self.rows.items()}
        if self.sketches is not None:
            arrays[_SKETCHES] = self.sketches
        return {
            name: np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
            for name, array in arrays.items()
        }

    def _about(self) -> str:
        return json.dumps(
            {
                "schema": SCHEMA,
                "name": self.name,
                "model_sha256": self.model_sha256,
                "data_fingerprint": self.data_fingerprint,
                "class_names": list(self.class_names),
                "rows": list(self.rows),
                "arrays": {
                    name: f"{array.dtype.name}{list(array.shape)}"
                    for name, array in sorted(self._arrays().items())
                },
            },
            sort_keys=True,
        )


@dataclass(frozen=True)
class _About:
    """What a file says of itself beside its arrays."""

    schema: int
    name: str
    model_sha256: str
    data_fingerprint: str
    class_names: tuple[str, ...]
    rows: tuple[str, ...]
    digest: str


def load_answers(path: Path) -> Answers:
    """Reads a file written by :meth:`Answers.save` and checks its digest.

    Raises:
        ArtefactError: No such file, another kind of file, or content that is not what was saved.
    """
    if not path.is_file():
        raise ArtefactError(f"{path}: no such file of answers.", hint="Check the path.")
    try:
        arrays, about = _read(path)
        answers = Answers(
            {name: arrays[f"{_ROW}{name}"] for name in about.rows},
            name=about.name,
            model_sha256=about.model_sha256,
            data_fingerprint=about.data_fingerprint,
            class_names=about.class_names,
            sketches=arrays.get(_SKETCHES),
        )
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise ArtefactError(
            f"{path}: is not a file of answers ({error or type(error).__name__}).", hint=_HINT
        ) from error
    except DataError as error:
        raise ArtefactError(f"{path}: {error.message}", hint=error.hint) from error
    if answers.digest != about.digest:
        raise ArtefactError(
            f"{path}: its content is not what was saved (digest differs).",
            hint="Copy it again from where it was made.",
        )
    return answers


def are_answers(path: Path) -> bool:
    """Whether a file holds answers of some task, and not the scores of a classifier."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.startswith(_ROW) for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def _read(path: Path) -> tuple[Mapping[str, NDArray[Any]], _About]:
    with zipfile.ZipFile(path) as archive:
        size = sum(info.file_size for info in archive.infolist())
    if size > _MAX_BYTES:
        raise ValueError(f"it unpacks to {size} bytes, more than {_MAX_BYTES}")
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    about = parse_stored(arrays.pop(_ABOUT).tobytes().decode(), _About, where=str(path), hint=_HINT)
    if about.schema != SCHEMA:
        raise ValueError(f"expected schema {SCHEMA}")
    return arrays, about
