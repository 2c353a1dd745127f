"""``npz:PATH``: images and labels as arrays in one NumPy archive.

Keys: ``images`` and ``labels``, or one pair for each split named like MedMNIST's (``train_images``,
``val_labels``) or like Keras's (``x_train``, ``y_test``). ``class_names`` (strings) is optional.
Images are ``(N, H, W)`` or ``(N, H, W, C)`` uint8 (C: 1 grey, 3 RGB, or as many as the network
takes), labels ``(N,)`` or ``(N, 1)`` of any integer type; calibration needs no labels.
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

from edgeres.data.arrays import ArrayDataset, numbered_classes
from edgeres.data.types import SPLIT_NAMES, UNLABELLED, Split
from edgeres.errors import DataError
from edgeres.system.plain_files import refuse_special

MAX_ARRAY_BYTES = 1 << 33
"""Largest array that is read, in bytes; a header that promises more is refused."""

# What zipfile, its decompressors and NumPy's header parser raise on damaged archives.
_ARCHIVE_ERRORS = (
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


def open_npz(path: Path, split: Split) -> ArrayDataset:
    """Opens a NumPy archive.

    Raises:
        DataError: Not an archive, damaged, keys missing, a dtype or shape that is not that of
            images and labels, or Python objects inside.
    """
    refuse_special(path, DataError)
    try:
        with zipfile.ZipFile(path) as archive:
            return _open(archive, path, split)
    except _ARCHIVE_ERRORS as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise DataError(
            f"Expected a NumPy archive at {str(path)!r}, got: {reason}.",
            hint="Write it with numpy.savez_compressed(path, images=..., labels=...).",
        ) from error


def _open(archive: zipfile.ZipFile, path: Path, split: Split) -> ArrayDataset:
    members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    pairs = [("images", "labels")]
    for prefix in SPLIT_NAMES[split]:
        pairs += [(f"{prefix}_images", f"{prefix}_labels"), (f"x_{prefix}", f"y_{prefix}")]
    present = [pair for pair in pairs if pair[0] in members]
    if not present:
        keys = ", ".join(map(repr, sorted(members)[:20])) or "none"
        raise DataError(
            f"Expected images under {' or '.join(repr(key) for key, _ in pairs)} in "
            f"{str(path)!r}, got the keys {keys}.",
            hint="Write it with numpy.savez_compressed(path, images=..., labels=...).",
        )
    image_key, label_key = present[0]
    images = _read(archive, members[image_key], path)
    if images.ndim == 4 and images.shape[3] == 1:
        images = images[..., 0]
    if label_key in members:
        labels = _labels(_read(archive, members[label_key], path), label_key, path)
    elif split == "calibration":
        labels = np.full(images.shape[:1], UNLABELLED, dtype=np.int64)
    else:
        raise DataError(
            f"Expected labels under {label_key!r} in {str(path)!r}, got none.",
            hint="Only calibration goes without labels.",
        )
    if "class_names" in members:
        class_names = tuple(map(str, _read(archive, members["class_names"], path).ravel()))
    else:
        class_names = numbered_classes(labels)
    return ArrayDataset(f"npz/{split}", images, labels, class_names)


def _labels(labels: NDArray[Any], key: str, path: Path) -> NDArray[np.int64]:
    """Checks and flattens labels."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataError(
            f"Expected labels (N,) of an integer type under {key!r} in {str(path)!r}, got shape "
            f"{labels.shape} {labels.dtype}.",
            hint="One class number for each image.",
        )
    return labels.astype(np.int64)


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> NDArray[Any]:
    """Reads one array after its header was found sane: no objects, no more than the file holds."""
    with archive.open(info) as stream:
        shape, dtype = _header(stream, info.filename)
    promised = math.prod(shape) * dtype.itemsize
    if dtype.hasobject:
        raise DataError(
            f"Expected plain numbers in {info.filename!r} of {str(path)!r}, got Python objects.",
            hint="Objects are never unpickled; store arrays of numbers.",
        )
    if promised > min(MAX_ARRAY_BYTES, info.file_size):
        raise DataError(
            f"Expected at most {min(MAX_ARRAY_BYTES, info.file_size):,} bytes in "
            f"{info.filename!r} of {str(path)!r}, got a header that promises {promised:,}.",
            hint="The file is damaged, or the set must be split.",
        )
    with archive.open(info) as stream:
        array: NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
    return array


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
