"""What a file is that is no image, in words, and what to do with it.

By its first bytes, as ``file`` (libmagic) does; only kinds that are taken for images in practice.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import zipfile
from dataclasses import dataclass

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF")
"""Pillow's names of the formats that are decoded; no other decoder sees untrusted bytes.

HEIC is one more where pillow-heif is installed, which decodes it.
"""
HEIC_PACKAGE = "pillow_heif"

_AS_IMAGE = "Save it as JPEG or PNG."
_GENERAL = f"Give one of {', '.join(FORMATS)}; in a data set, replace the file or take it out."
_ARRAYS = (
    "Give image files here; arrays of pixels go to edgeres.Session.classify, a data set of them is "
    "npz:PATH."
)
_TEXT_BYTES = 512


@dataclass(frozen=True)
class FileKind:
    """What was found, with its article, and what to do."""

    name: str
    hint: str


_BEGINNINGS: tuple[tuple[bytes, FileKind], ...] = (
    (b"\x93NUMPY", FileKind("a NumPy array (.npy)", _ARRAYS)),
    (b"%PDF-", FileKind("a PDF document", "Save the page as JPEG or PNG.")),
    (b"%!PS", FileKind("a PostScript file", _AS_IMAGE)),
    (b"8BPS", FileKind("a Photoshop file", _AS_IMAGE)),
    (b"\x00\x00\x01\x00", FileKind("an icon (.ico)", _AS_IMAGE)),
    (b"\x00\x00\x00\x0cjP  ", FileKind("a JPEG 2000 image", _AS_IMAGE)),
    (b"\xff\x0a", FileKind("a JPEG XL image", _AS_IMAGE)),
    (b"\x00\x00\x00\x0cJXL ", FileKind("a JPEG XL image", _AS_IMAGE)),
    (b"\x1f\x8b", FileKind("a gzip archive", "Unpack it first.")),
    (b"7z\xbc\xaf\x27\x1c", FileKind("a 7-Zip archive", "Unpack it first.")),
    (
        b"version https://git-lfs",
        FileKind("a Git LFS pointer, not the file itself", "Run `git lfs pull`."),
    ),
)
_HEIC_BRANDS = frozenset((b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1"))
_AVIF_BRANDS = frozenset((b"avif", b"avis"))


def formats_for(data: bytes) -> tuple[str, ...]:
    """Pillow's names of the formats that a file may be decoded as.

    HEIC is among them only for a file that is such by its first bytes, and where pillow-heif is
    installed, which this then registers with Pillow.
    """
    if data[4:8] != b"ftyp" or data[8:12] not in _HEIC_BRANDS or not _heic_installed():
        return FORMATS
    importlib.import_module(HEIC_PACKAGE).register_heif_opener()
    return (*FORMATS, "HEIF")


def _heic_installed() -> bool:
    return importlib.util.find_spec(HEIC_PACKAGE) is not None


def file_kind(data: bytes) -> FileKind:
    """What a file that is no image in one of :data:`FORMATS` is.

    Args:
        data: All of the file.
    """
    for beginning, kind in _BEGINNINGS:
        if data.startswith(beginning):
            return kind
    if data.startswith(b"PK\x03\x04"):
        return _archive(data)
    if data[4:8] == b"ftyp":
        return _media(data[8:12])
    if data[:1] == b"\x80" and data[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return FileKind("a pickle", "Give image files here.")
    if not data.strip(b"\x00"):
        return FileKind("nothing but zero bytes", "Copy the file again from where it was made.")
    return _text(data[:_TEXT_BYTES]) or FileKind("data of an unknown kind", _GENERAL)


def _media(brand: bytes) -> FileKind:
    """A file of the ISO base media format (ISO/IEC 14496-12), by its brand."""
    if brand in _HEIC_BRANDS:
        how = '`pip install "edgeres[heic]"` reads it. ' if not _heic_installed() else ""
        return FileKind("a photograph in HEIC", how + _AS_IMAGE)
    if brand in _AVIF_BRANDS:
        return FileKind("a photograph in AVIF", f"Pillow was built without AVIF here. {_AS_IMAGE}")
    return FileKind("a video", "Save its frames as JPEG or PNG.")


def _archive(data: bytes) -> FileKind:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError):
        return FileKind("a damaged ZIP archive", "Copy it again, and unpack it.")
    if names and all(name.endswith(".npy") for name in names):
        return FileKind("a NumPy archive (.npz)", _ARRAYS)
    if names[:1] == ["manifest.json"]:
        return FileKind("a bundle", "Give the bundle first, then the images.")
    if any(name.endswith("/data.pkl") for name in names):
        return FileKind("a PyTorch checkpoint", "Give image files here.")
    return FileKind("a ZIP archive", "Unpack it first.")


def _text(start: bytes) -> FileKind | None:
    """Kinds of text; ``None`` for what is none."""
    try:
        words = start.decode("utf-8", errors="strict" if len(start) < _TEXT_BYTES else "ignore")
    except UnicodeDecodeError:
        return None
    if any(not (char.isprintable() or char.isspace()) for char in words):
        return None
    lower = words.lstrip("\ufeff \t\r\n").lower()
    if lower.startswith(("<!doctype html", "<html")):
        return FileKind("a web page (HTML)", "The download failed: get the image again.")
    if "<svg" in lower:
        return FileKind("an SVG drawing", _AS_IMAGE)
    return FileKind("a text", _GENERAL)
