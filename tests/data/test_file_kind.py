"""What is said of a file that is no image: what it is, and what to do."""

from __future__ import annotations

import gzip
import io
import pickle
import zipfile

import numpy as np
import pytest
from PIL import Image

from edgeres.data.decode import decode_bytes
from edgeres.errors import DataError


def _npz() -> bytes:
    out = io.BytesIO()
    np.savez(out, images=np.zeros((2, 4, 4), np.uint8))
    return out.getvalue()


def _npy() -> bytes:
    out = io.BytesIO()
    np.save(out, np.zeros(3))
    return out.getvalue()


def _zip(*names: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in names:
            archive.writestr(zipfile.ZipInfo(name), b"x")  # no time: it is in the test's name
    return out.getvalue()


@pytest.mark.parametrize(
    ("data", "found", "hint"),
    [
        (_npz(), "a NumPy archive (.npz)", "Session.classify"),
        (_npy(), "a NumPy array (.npy)", "Session.classify"),
        (_zip("manifest.json", "labels.json"), "a bundle", "bundle first"),
        (_zip("net/data.pkl", "net/data/0"), "a PyTorch checkpoint", "image files"),
        (_zip("a.jpg"), "a ZIP archive", "Unpack"),
        (_npz()[:60], "a damaged ZIP archive", "Copy it again"),
        (b"just words\n", "a text", "Give one of JPEG"),
        ("caf\u00e9, \u00fcber ".encode() * 60, "a text", "Give one of JPEG"),
        (b"<!DOCTYPE html><html></html>", "a web page (HTML)", "download failed"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing", "Save it as"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer", "git lfs pull"),
        (b"%PDF-1.7\n", "a PDF document", "Save the page"),
        (gzip.compress(b"x", mtime=0), "a gzip archive", "Unpack"),
        (pickle.dumps([1]), "a pickle", "Give image files"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "a photograph in HEIC", "Save it as JPEG"),
        (b"\0\0\0\x18ftypisom\0\0\0\0", "a video", "frames"),
        (bytes(500), "nothing but zero bytes", "Copy the file again"),
        (bytes([1, 255, 7]) * 50, "data of an unknown kind", "Give one of JPEG"),
    ],
)
def test_what_it_is_and_what_to_do(data: bytes, found: str, hint: str) -> None:
    with pytest.raises(DataError) as caught:
        decode_bytes(data, "x.jpg")
    assert f"got {found}" in caught.value.message
    assert hint in caught.value.hint


def test_a_damaged_image_is_called_damaged() -> None:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (64, 64), np.uint8)).save(out, "JPEG")
    with pytest.raises(DataError, match="damaged one: image file is truncated") as caught:
        decode_bytes(out.getvalue()[:-600], "x.jpg")
    assert "Copy the file again" in caught.value.hint
