"""Arrays and their origin in one ``.npz`` file, which tells when it is not what was saved."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgeres.errors import ArtefactError
from edgeres.system.files import write_atomic
from edgeres.system.stored_json import check_stored

T = TypeVar("T")
Arrays = Mapping[str, NDArray[Any]]

_ABOUT = "about"
_DIGEST = "digest"
_SHAPES = "arrays"
_MAX_BYTES = 8 << 30  # 8 GiB: a file that claims more is refused before it is unpacked


def arrays_digest(arrays: Arrays, about: Mapping[str, Any]) -> str:
    """SHA-256 over arrays, with their types and shapes, and origin: the same on every machine."""
    parts = hashlib.sha256(_text(arrays, about).encode())
    for _, array in sorted(arrays.items()):
        parts.update(_portable(array).tobytes())
    return parts.hexdigest()


def save_arrays(path: Path, arrays: Arrays, about: Mapping[str, Any]) -> None:
    """Writes a file, whole or not at all; equal content gives equal bytes.

    Args:
        path: The file.
        arrays: By name; none is called ``about``.
        about: Their origin, JSON values.

    Raises:
        StorageError: The file cannot be written.
    """
    told = json.loads(_text(arrays, about)) | {_DIGEST: arrays_digest(arrays, about)}
    text = json.dumps(told, sort_keys=True).encode()
    content = {name: _portable(array) for name, array in sorted(arrays.items())}
    content[_ABOUT] = np.frombuffer(text, dtype=np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, **content)  # type: ignore[arg-type]
    write_atomic(path, buffer.getvalue())


def load_arrays(
    path: Path, about: type[T], *, what: str, hint: str
) -> tuple[dict[str, NDArray[Any]], T]:
    """Reads a file of :func:`save_arrays`.

    Args:
        path: The file.
        about: Type of the origin, a dataclass.
        what: What the file is, for the error, e.g. ``a file of answers``.
        hint: What to do about a damaged one.

    Raises:
        ArtefactError: No such file, another kind of file, or content that is not what was saved.
    """
    if not path.is_file():
        raise ArtefactError(f"{path}: there is no such file.", hint="Check the path.")
    try:
        arrays, told = _read(path)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise ArtefactError(
            f"{path}: is not {what} ({error or type(error).__name__}).", hint=hint
        ) from error
    digest = told.pop(_DIGEST, None)
    told.pop(_SHAPES, None)
    origin = check_stored(told, about, where=f"{path}: is not {what}", hint=hint)
    if digest != arrays_digest(arrays, told):
        raise ArtefactError(
            f"{path}: its content is not what was saved (digest differs).",
            hint="Copy it again from where it was made.",
        )
    return arrays, origin


def names_in(path: Path) -> tuple[str, ...]:
    """Names of the arrays in a file, without reading them; none where it is no such file."""
    try:
        with zipfile.ZipFile(path) as archive:
            return tuple(name.removesuffix(".npy") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return ()


def about_in(path: Path) -> dict[str, Any]:
    """The origin in a file, without reading its arrays and unchecked; empty where it is no file."""
    try:
        with np.load(path, allow_pickle=False) as file:
            told = json.loads(file[_ABOUT].tobytes().decode())
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return {}
    return told if isinstance(told, dict) else {}


def _text(arrays: Arrays, about: Mapping[str, Any]) -> str:
    shapes = {
        name: f"{array.dtype.name}{list(array.shape)}" for name, array in sorted(arrays.items())
    }
    return json.dumps({**about, _SHAPES: shapes}, sort_keys=True)


def _portable(array: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))


def _read(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    with zipfile.ZipFile(path) as archive:
        size = sum(info.file_size for info in archive.infolist())
    if size > _MAX_BYTES:
        raise ValueError(f"it unpacks to {size} bytes, more than {_MAX_BYTES}")
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    told = json.loads(arrays.pop(_ABOUT).tobytes().decode())
    if not isinstance(told, dict):
        raise TypeError("it does not say what it holds")
    return arrays, told
