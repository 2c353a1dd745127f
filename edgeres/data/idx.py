"""Reads IDX files, the format of MNIST and Fashion-MNIST, plain or gzip-compressed.

An IDX file is a big-endian header (two zero bytes, a type code, the number of dimensions, then
each dimension as uint32) followed by the values, last index fastest (Y. LeCun, "The MNIST
database", file formats). Only unsigned bytes (type 0x08) occur in image sets; others are refused.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from edgeres.errors import DataError
from edgeres.system.plain_files import refuse_special

UBYTE = 0x08
MAX_DIMENSIONS = 4
MAX_BYTES = 1 << 31  # a header that promises more is refused before anything is allocated
CHUNK_BYTES = 1 << 20


def read_idx(path: Path, *, max_bytes: int = MAX_BYTES) -> NDArray[np.uint8]:
    """Reads one IDX file of unsigned bytes.

    Memory grows with the bytes that are really in the file, never with what the header promises.

    Args:
        path: The file; compression is told by its first two bytes, not by its name.
        max_bytes: Largest content that is accepted.

    Returns:
        Array of dtype uint8 in the header's shape, e.g. ``(N, H, W)`` images or ``(N,)`` labels.

    Raises:
        DataError: No such file, wrong magic, another element type, damaged compression, fewer or
            more bytes than the header says, or a header beyond ``max_bytes``.
    """
    refuse_special(path, DataError)
    try:
        with path.open("rb") as plain:
            compressed = plain.read(2) == b"\x1f\x8b"
            plain.seek(0)
            if not compressed:
                return _read(plain, path, max_bytes)
            with gzip.GzipFile(fileobj=plain, mode="rb") as unpacked:
                return _read(unpacked, path, max_bytes)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"The gzip stream of '{path}' is damaged: {error}.",
            hint="Copy or download the file again.",
        ) from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(
            f"Cannot read the IDX file '{path}': {reason}.",
            hint="Check the path; it must be an IDX file, plain or gzip-compressed.",
        ) from error


def read_idx_images(path: Path) -> NDArray[np.uint8]:
    """Reads images ``(N, H, W)`` or ``(N, H, W, 3)`` uint8.

    Raises:
        DataError: As :func:`read_idx`, or the dimensions are not those of images.
    """
    images = read_idx(path)
    if images.ndim != 3 and not (images.ndim == 4 and images.shape[3] == 3):
        raise DataError(
            f"Expected images (N, H, W) or (N, H, W, 3) in '{path}', got shape {images.shape}.",
            hint="Give the image file first and the label file second.",
        )
    return images


def read_idx_labels(path: Path) -> NDArray[np.int64]:
    """Reads labels ``(N,)`` as int64.

    Raises:
        DataError: As :func:`read_idx`, or the file has more than one dimension.
    """
    labels = read_idx(path)
    if labels.ndim != 1:
        raise DataError(
            f"Expected labels (N,) in '{path}', got shape {labels.shape}.",
            hint="Give the image file first and the label file second.",
        )
    return labels.astype(np.int64)


def _read(stream: IO[bytes] | gzip.GzipFile, path: Path, max_bytes: int) -> NDArray[np.uint8]:
    magic = stream.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or not 1 <= magic[3] <= MAX_DIMENSIONS:
        raise DataError(
            f"Expected an IDX header in '{path}', got the bytes {magic.hex(' ') or 'of nothing'}.",
            hint="IDX files begin with 00 00 08 and the number of dimensions.",
        )
    if magic[2] != UBYTE:
        raise DataError(
            f"Expected unsigned bytes (type 08) in '{path}', got type {magic[2]:02x}.",
            hint="Convert the file to uint8.",
        )
    header = stream.read(4 * magic[3])
    if len(header) < 4 * magic[3]:
        raise DataError(
            f"'{path}' ends inside its header.", hint="Copy or download the file again."
        )
    shape = struct.unpack(f">{magic[3]}I", header)
    size = math.prod(shape)
    # A size of 0 lets no other one be absurd: arrays are bounded by the product of all others.
    if math.prod(n or 1 for n in shape) > max_bytes:
        raise DataError(
            f"The header of '{path}' promises {size} bytes (shape {shape}), the limit is "
            f"{max_bytes}.",
            hint="The file is damaged, or the set must be split.",
        )
    content = bytearray()
    while len(content) <= size:
        chunk = stream.read(min(CHUNK_BYTES, size + 1 - len(content)))
        if not chunk:
            break
        content += chunk
    if len(content) != size:
        amount = f"only {len(content)}" if len(content) < size else "more"
        raise DataError(
            f"Expected {size} bytes after the header of '{path}' (shape {shape}), got {amount}.",
            hint="The file is truncated or damaged; copy or download it again.",
        )
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)
