"""One image file to one Pillow image of mode ``L`` or ``RGB``, or a ``DataError`` that names it.

The conversion, in this order; the tests hold a golden value for each line:

====================================  ==========================================================
what is in the file                   what comes out
====================================  ==========================================================
several frames or pages               the first one
EXIF orientation                      applied, so that the image stands as a viewer shows it
grey: ``1``, ``L``                    ``L``
grey with alpha: ``LA``, ``La``       ``L``, alpha dropped
16 bits grey: ``I;16*``, 16-bit PGM   ``L``, the high byte (as Pillow does for 16-bit colour)
``RGB``, ``RGBX``, 16-bit colour      ``RGB``
``RGBA``, ``RGBa``                    ``RGB``, alpha dropped: no background is invented
palette: ``P``, ``PA``                ``RGB`` through the palette, transparency dropped
``CMYK``, ``YCbCr``, ``HSV``          ``RGB`` by Pillow's formulas, no colour profile applied
32-bit ``I``, float ``F``, ``LAB``    refused: their range is not defined
====================================  ==========================================================

torchvision's ``ImageFolder`` differs in two of these: it ignores the EXIF orientation, and clips
16-bit grey to 255.

Memory is bounded: a file of more than ``MAX_FILE_BYTES`` is not read and an image of more than
``MAX_PIXELS`` not decoded; the size is taken from the header before any pixel is.
"""

from __future__ import annotations

import io
import stat
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from edgeres.data.file_kind import FORMATS, file_kind, formats_for
from edgeres.errors import DataError, one_line

MAX_PIXELS = 64_000_000
"""Largest image that is decoded, in pixels (256 MB at Pillow's four bytes a pixel)."""

MAX_FILE_BYTES = 256_000_000
"""Largest image file that is read, in bytes."""

# What Pillow's decoders raise on damaged files. It documents OSError and UnidentifiedImageError;
# the others come out of the plugins' header parsing, and tests/data/test_decode_fuzz.py finds them.
_DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    EOFError,
    NotImplementedError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Warning,
)

_ALPHA_GREY = frozenset({"1", "LA", "La"})
_UNDEFINED = frozenset({"I", "F", "LAB"})

_ORIENTATION = 0x0112
_ON_ITS_SIDE = frozenset({5, 6, 7, 8})  # of the EXIF orientations, those that swap the sides


def decode_file(path: Path) -> Image.Image:
    """Decodes an image file to mode ``L`` or ``RGB``.

    Raises:
        DataError: The file is missing, not a regular file, empty, too large, damaged or not an
            image; the message names it.
    """
    return decode_bytes(_read(path), str(path))


def decode_bytes(data: bytes, name: str) -> Image.Image:
    """Decodes an image from memory to mode ``L`` or ``RGB``; ``name`` is for the error.

    Raises:
        DataError: The bytes are not a whole image, or one that is too large or of an undefined
            range.
    """
    if not data:
        raise DataError(f"Expected an image in {name!r}, got an empty file.", hint=_HINT)
    if len(data) > MAX_FILE_BYTES:
        raise DataError(
            f"Expected an image of at most {MAX_FILE_BYTES:,} bytes, got {len(data):,} in "
            f"{name!r}.",
            hint="Scale the image down.",
        )
    try:
        with Image.open(io.BytesIO(data), formats=formats_for(data)) as image:
            return decode_image(image, name)
    except UnidentifiedImageError as error:
        kind = file_kind(data)
        raise DataError(
            f"Expected an image in {name!r}, got {kind.name}, none of {', '.join(FORMATS)}.",
            hint=kind.hint,
        ) from error
    except _DECODER_ERRORS as error:
        raise _undecodable(name, error) from error


def decode_image(image: Image.Image, name: str) -> Image.Image:
    """Converts an opened Pillow image to mode ``L`` or ``RGB``, as if it came from its file.

    Raises:
        DataError: It cannot be decoded, is too large or of an undefined range.
    """
    if image.width * image.height > MAX_PIXELS:
        raise _too_large(image, name)
    try:
        image.load()
        if image.mode == "I" and image.format == "PPM":  # Pillow's form of 16-bit PGM
            deep = Image.fromarray(np.asarray(image).astype(np.uint16))
            return to_grey_or_rgb(deep, name)
        return to_grey_or_rgb(_upright(image), name)
    except _DECODER_ERRORS as error:
        raise _undecodable(name, error) from error


def open_pixels(path: Path) -> Image.Image:
    """Decodes an image file as it is stored, in its own mode: for numbers that are no colours.

    Raises:
        DataError: As :func:`decode_file`; the message names it.
    """
    image = _opened(path)
    try:
        image.load()
    except _DECODER_ERRORS as error:
        raise _undecodable(str(path), error) from error
    return image


def image_size(path: Path) -> tuple[int, int]:
    """Height and width of an image file, upright, from its header.

    Raises:
        DataError: As :func:`decode_file`.
    """
    image = _opened(path)
    try:
        turned = image.getexif().get(_ORIENTATION, 1) in _ON_ITS_SIDE
    except _DECODER_ERRORS:
        turned = False
    return (image.width, image.height) if turned else (image.height, image.width)


def _opened(path: Path) -> Image.Image:
    """The header of an image file of bounded size."""
    name = str(path)
    data = _read(path)
    try:
        image = Image.open(io.BytesIO(data), formats=formats_for(data))
    except _DECODER_ERRORS as error:
        raise _undecodable(name, error) from error
    if image.width * image.height > MAX_PIXELS:
        raise _too_large(image, name)
    return image


def _too_large(image: Image.Image, name: str) -> DataError:
    return DataError(
        f"Expected at most {MAX_PIXELS:,} pixels in {name!r}, got {image.height}x{image.width}.",
        hint="Scale the image down.",
    )


def _undecodable(name: str, error: BaseException) -> DataError:
    reason = one_line(error)
    return DataError(
        f"Expected a whole image in {name!r}, got a damaged one: {reason}.", hint=_HINT
    )


def to_grey_or_rgb(image: Image.Image, name: str = "image") -> Image.Image:
    """Converts a decoded Pillow image to ``L`` or ``RGB`` by the table at the top of this file.

    Raises:
        DataError: The mode has no defined range.
    """
    mode = image.mode
    if mode in {"L", "RGB"}:
        return image
    if mode in _UNDEFINED:
        raise DataError(
            f"Expected 8 or 16 bits a channel in {name!r}, got Pillow mode {mode}.",
            hint="Convert it to 8-bit grey or RGB first; its range of values is not defined.",
        )
    if mode.startswith("I;16"):
        wide = np.asarray(image)
        return Image.fromarray((wide >> 8).astype(np.uint8))
    if mode in _ALPHA_GREY:
        return image.convert("L")
    if mode in {"P", "PA"}:
        # By way of RGBA: Pillow warns when transparency given in bytes is dropped directly.
        return image.convert("RGBA").convert("RGB")
    return image.convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    """Applies the EXIF orientation; damaged EXIF data counts as none, for the pixels are whole."""
    try:
        if image.getexif().get(_ORIENTATION, 1) == 1:
            return image  # Pillow would copy it: of 12 megapixels that takes as long as some layers
        return ImageOps.exif_transpose(image)
    except _DECODER_ERRORS:
        return image


def _special(mode: int) -> str:
    """What is at a path that is no regular file."""
    if stat.S_ISDIR(mode):
        return "a folder"
    return "a pipe" if stat.S_ISFIFO(mode) else "a device or a socket"


def _read(path: Path) -> bytes:
    """Reads a regular file of bounded size."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise DataError(
                f"Expected an image file, got {_special(status.st_mode)} at {str(path)!r}.",
                hint="Name the files; of a folder all at once with FOLDER/*.",
            )
        if status.st_size > MAX_FILE_BYTES:
            raise DataError(
                f"Expected an image of at most {MAX_FILE_BYTES:,} bytes, got {status.st_size:,} "
                f"in {str(path)!r}.",
                hint="Scale the image down.",
            )
        return path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(
            f"Expected an image file at {str(path)!r}, got: {reason}.",
            hint="Check the path and its permissions.",
        ) from error


_HINT = "Copy the file again from where it was made; in a data set, replace it or take it out."
