"""Arrays from ``.npy`` files and ``.npz`` archives of unknown origin, read safely.

Objects are never unpickled, and a header that promises more than the file holds is refused before
memory is asked for.
"""

from __future__ import annotations

import lzma
import math
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from edgeres.errors import DataError
from edgeres.system.plain_files import refuse_special

MAX_ARRAY_BYTES = 1 << 33
"""Largest array that is read into memory, in bytes; a header that promises more is refused."""

ARRAY_ERRORS = (
    OSError,
    ValueError,
    EOFError,
    RuntimeError,
    SyntaxError,
    TypeError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    tokenize.TokenError,
)
"""What zipfile, its decompressors and NumPy's header parser raise on damaged files."""


def read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> NDArray[Any]:
    """Reads one array of an archive after its header was found sane.

    Args:
        archive: Open.
        info: Which of its files.
        path: Of the archive, for messages.

    Raises:
        DataError: Python objects, or a header that promises more than the file holds.
        Exception: One of :data:`ARRAY_ERRORS`, where the archive is damaged.
    """
    with archive.open(info) as stream:
        shape, dtype = _header(stream, info.filename)
    promised = math.prod(shape) * dtype.itemsize
    where = f"{info.filename!r} of {str(path)!r}"
    _refuse_objects(dtype, where)
    if promised > min(MAX_ARRAY_BYTES, info.file_size):
        raise _promises(where, min(MAX_ARRAY_BYTES, info.file_size), promised)
    with archive.open(info) as stream:
        array: NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
    return array


def map_npy(path: Path) -> NDArray[Any]:
    """Maps an ``.npy`` file into memory, read-only: only what is looked at is read.

    Raises:
        DataError: Missing, damaged, Python objects, or a header that promises more than the file
            holds.
    """
    refuse_special(path, DataError)
    try:
        with path.open("rb") as stream:
            shape, dtype = _header(stream, path.name)
            held = path.stat().st_size - stream.tell()
        _refuse_objects(dtype, repr(str(path)))
        promised = math.prod(shape) * dtype.itemsize
        if promised > held:
            raise _promises(repr(str(path)), held, promised)
        if promised == 0:  # there is nothing that could be mapped
            return np.empty(shape, dtype)
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except ARRAY_ERRORS as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise DataError(
            f"Expected a NumPy array at {str(path)!r}, got: {reason}.",
            hint="Write it with numpy.save(path, array).",
        ) from error
    return array


def _promises(where: str, most: int, promised: int) -> DataError:
    return DataError(
        f"Expected at most {most:,} bytes in {where}, got a header that promises {promised:,}.",
        hint="The file is damaged, or the set must be split.",
    )


def _refuse_objects(dtype: np.dtype[Any], where: str) -> None:
    if dtype.hasobject:
        raise DataError(
            f"Expected plain numbers in {where}, got Python objects.",
            hint="Objects are never unpickled; store arrays of numbers.",
        )


def _header(stream: IO[bytes], name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Reads shape and dtype of an ``.npy`` stream (format versions 1.0 and 2.0)."""
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    elif version == (2, 0):
        shape, _, dtype = np.lib.format.read_array_header_2_0(stream)
    else:
        raise ValueError(f"{name} has the unknown .npy version {version}")
    return shape, dtype
