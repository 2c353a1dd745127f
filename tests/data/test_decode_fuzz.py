"""Damaged bytes give a picture or a DataError, never another exception."""

import io
import warnings

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edgeres.data.decode import decode_bytes
from edgeres.errors import DataError


def encoded(kind: str, mode: str) -> bytes:
    pixels = np.random.default_rng(7).integers(0, 256, (24, 20, 3), dtype=np.uint8)
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {} if kind in {"BMP", "GIF", "PPM"} else {"exif": exif}
    Image.fromarray(pixels).convert(mode).save(stream, kind, **options)
    return stream.getvalue()


SEEDS = [
    encoded(kind, mode)
    for kind, mode in [
        ("JPEG", "RGB"),
        ("JPEG", "CMYK"),
        ("PNG", "RGBA"),
        ("PNG", "P"),
        ("WEBP", "RGB"),
        ("BMP", "RGB"),
        ("GIF", "P"),
        ("TIFF", "RGB"),
        ("PPM", "L"),
    ]
]


@settings(max_examples=400, deadline=None)
@given(
    data=st.sampled_from(SEEDS),
    changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=6),
    end=st.none() | st.floats(0, 1),
    headwards=st.booleans(),
)
def test_damaged_images_decode_or_are_bad_data(data, changes, end, headwards):
    damaged = bytearray(data)
    for place, value in changes:
        span = min(len(damaged), 120) if headwards else len(damaged)
        damaged[int(place * (span - 1))] = value
    if end is not None:
        del damaged[int(end * len(damaged)) :]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = decode_bytes(bytes(damaged), "damaged")
        except DataError:
            return
    assert image.mode in {"L", "RGB"}
    assert np.asarray(image).dtype == np.uint8


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(
        [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"II*\0", b"GIF89a", b"BM", b"P6 ", b""]
    ),
    st.binary(max_size=200),
)
def test_random_bytes_behind_a_magic_number_are_bad_data(magic, rest):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            decode_bytes(magic + rest, "noise")
        except DataError:
            return
