"""IDX files that lie or are damaged: one clear error, and memory bounded by the file."""

from __future__ import annotations

import gzip
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from edgeres.data.idx import read_idx, read_idx_images, read_idx_labels
from edgeres.errors import DataError


def header(*shape: int, kind: int = 8) -> bytes:
    return bytes([0, 0, kind, len(shape)]) + struct.pack(f">{len(shape)}I", *shape)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "of nothing"),
        (b"\x89PNG\r\n", "89 50 4e 47"),
        (b"\0\0\x08\0", "00 00 08 00"),
        (b"\0\0\x08\xff", "00 00 08 ff"),
        (header(2, kind=0x0D) + bytes(8), "type 0d"),
        (header(3, 2)[:-1], "ends inside its header"),
        (header(3) + b"ab", "got only 2"),
        (header(3) + b"abcd", "got more"),
        (header(1 << 16, 1 << 16, 1 << 16), "promises"),
        (header(0, (1 << 32) - 1, (1 << 32) - 1), "promises"),  # found by guided fuzzing
        (gzip.compress(header(3) + b"abc", mtime=0)[:-5], "gzip"),
        (gzip.compress(header(3) + b"abc", mtime=0)[:12], "gzip"),
        (b"\x1f\x8b\x08\0" + bytes(20), "gzip"),
    ],
)
def test_damage_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "values"
    path.write_bytes(content)
    with pytest.raises(DataError, match=said) as caught:
        read_idx(path)
    assert str(path) in caught.value.message
    assert caught.value.hint
    assert "\n" not in str(caught.value)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(DataError, match="Cannot read"):
            read_idx(path)


@pytest.mark.parametrize("compressed", [False, True])
def test_a_lying_header_does_not_take_memory(tmp_path: Path, compressed: bool) -> None:
    content = header(1 << 20, 1 << 10) + bytes(10)  # promises 1 GiB, within the limit
    path = tmp_path / "values"
    path.write_bytes(gzip.compress(content) if compressed else content)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="got only 10"):
            read_idx(path)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_a_gzip_bomb_is_read_no_further_than_its_header_says(tmp_path: Path) -> None:
    path = tmp_path / "values"
    path.write_bytes(gzip.compress(header(10) + bytes(64 << 20)))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="got more"):
            read_idx(path)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_limit(tmp_path: Path) -> None:
    path = tmp_path / "values"
    path.write_bytes(header(9) + bytes(9))
    assert read_idx(path, max_bytes=9).tolist() == [0] * 9
    with pytest.raises(DataError, match="the limit is 8"):
        read_idx(path, max_bytes=8)


def test_images_and_labels_have_their_dimensions(tmp_path: Path) -> None:
    labels, images, planes = tmp_path / "labels", tmp_path / "images", tmp_path / "planes"
    labels.write_bytes(header(2) + b"\1\2")
    images.write_bytes(header(1, 2, 2, 3) + bytes(12))
    planes.write_bytes(header(1, 3, 2, 2) + bytes(12))
    assert read_idx_labels(labels).dtype == np.int64
    assert read_idx_images(images).shape == (1, 2, 2, 3)
    for path in (labels, planes):
        with pytest.raises(DataError, match="Expected images"):
            read_idx_images(path)
    with pytest.raises(DataError, match="Expected labels"):
        read_idx_labels(images)
