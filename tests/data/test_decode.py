"""Fault 21 to 24: each kind of image has one defined result, each bad file one clear error."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from edgeres.data import decode
from edgeres.data.decode import MAX_PIXELS, decode_bytes, decode_file
from edgeres.errors import DataError

ORIENTATION = 0x0112


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    """A PNG written by hand, for what Pillow does not write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    )


def palette_image(**info) -> Image.Image:
    image = Image.fromarray(np.array([[0, 1], [2, 1]], dtype=np.uint8))
    image = image.convert("P")
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.putdata([0, 1, 2, 1])
    image.info.update(info)
    return image


GREY16 = np.array([[0, 255, 256], [0x1234, 0x80FF, 0xFFFF]], dtype=np.uint16)
RGBA = np.array([[[1, 2, 3, 0], [4, 5, 6, 128]]], dtype=np.uint8)

GOLDEN = {
    "grey": (encoded(Image.fromarray(np.array([[0, 128, 255]], dtype=np.uint8))), [[0, 128, 255]]),
    "black and white": (
        encoded(Image.fromarray(np.array([[0, 255, 255]], dtype=np.uint8)).convert("1")),
        [[0, 255, 255]],
    ),
    "grey with alpha": (
        encoded(Image.fromarray(np.array([[[7, 0], [9, 255]]], dtype=np.uint8))),
        [[7, 9]],
    ),
    "16-bit grey": (encoded(Image.fromarray(GREY16)), [[0, 0, 1], [0x12, 0x80, 0xFF]]),
    "16-bit grey TIFF": (encoded(Image.fromarray(GREY16), "TIFF"), [[0, 0, 1], [0x12, 0x80, 0xFF]]),
    "16-bit grey PGM": (
        b"P5 2 1 65535\n" + struct.pack(">HH", 0x12FF, 0xFFFF),
        [[0x12, 0xFF]],
    ),
    "16-bit RGB": (
        png(1, 1, 16, 2, b"\0" + struct.pack(">HHH", 0x00FF, 0x1234, 0xFFFF)),
        [[[0x00, 0x12, 0xFF]]],
    ),
    "RGB": (encoded(Image.fromarray(RGBA[..., :3])), [[[1, 2, 3], [4, 5, 6]]]),
    "RGBA": (encoded(Image.fromarray(RGBA)), [[[1, 2, 3], [4, 5, 6]]]),
    "palette": (
        encoded(palette_image()),
        [[[10, 20, 30], [40, 50, 60]], [[70, 80, 90], [40, 50, 60]]],
    ),
    "palette with transparency": (
        encoded(palette_image(), transparency=b"\x00\x80\xff"),
        [[[10, 20, 30], [40, 50, 60]], [[70, 80, 90], [40, 50, 60]]],
    ),
    "CMYK TIFF": (
        encoded(Image.frombytes("CMYK", (2, 1), bytes([0, 0, 0, 0, 255, 0, 128, 64])), "TIFF"),
        [[[255, 255, 255], [0, 191, 95]]],
    ),
    "CMYK JPEG": (
        encoded(Image.new("CMYK", (8, 8), (255, 0, 0, 0)), "JPEG", quality=100),
        [[[0, 255, 255]] * 8] * 8,
    ),
    "GIF": (
        encoded(palette_image(), "GIF"),
        [[[10, 20, 30], [40, 50, 60]], [[70, 80, 90], [40, 50, 60]]],
    ),
    "animated GIF": (
        encoded(
            Image.new("L", (1, 1), 50), "GIF", save_all=True, append_images=[Image.new("L", (1, 1))]
        ),
        None,
    ),
}


@pytest.mark.parametrize("name", [name for name, (_, pixels) in GOLDEN.items() if pixels])
def test_each_kind_has_its_golden_pixels(name):
    data, pixels = GOLDEN[name]
    image = decode_bytes(data, name)
    assert image.mode in {"L", "RGB"}
    np.testing.assert_array_equal(np.asarray(image), np.array(pixels))


def test_an_animation_gives_its_first_frame():
    image = decode_bytes(GOLDEN["animated GIF"][0], "animated")
    assert np.asarray(image).ravel()[0] == 50


@pytest.mark.parametrize(
    ("orientation", "pixels"),
    [
        (1, [[1, 2, 3], [4, 5, 6]]),
        (2, [[3, 2, 1], [6, 5, 4]]),
        (3, [[6, 5, 4], [3, 2, 1]]),
        (4, [[4, 5, 6], [1, 2, 3]]),
        (5, [[1, 4], [2, 5], [3, 6]]),
        (6, [[4, 1], [5, 2], [6, 3]]),
        (7, [[6, 3], [5, 2], [4, 1]]),
        (8, [[3, 6], [2, 5], [1, 4]]),
        (9, [[1, 2, 3], [4, 5, 6]]),
    ],
)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_exif_orientation_is_applied(orientation, pixels, kind):
    image = Image.fromarray(np.array([[1, 2, 3], [4, 5, 6]], dtype=np.uint8) * 40).convert("RGB")
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    got = np.asarray(decode_bytes(encoded(image, kind, exif=exif, **options), "photo"))
    np.testing.assert_array_equal(got[..., 0], np.array(pixels) * 40)


def test_exif_orientation_of_16_bit_grey_is_applied():
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    got = np.asarray(decode_bytes(encoded(Image.fromarray(GREY16), exif=exif), "deep"))
    np.testing.assert_array_equal(got, [[0x12, 0], [0x80, 0], [0xFF, 1]])


def test_damaged_exif_leaves_the_pixels():
    image = Image.new("L", (2, 1), 9)
    data = encoded(image, "PNG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01")
    assert np.asarray(decode_bytes(data, "photo")).tolist() == [[9, 9]]


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(np.array([[1.5]], dtype=np.float32)),
        Image.fromarray(np.array([[70000]], dtype=np.int32)),
    ],
    ids=["F", "I"],
)
def test_a_range_that_is_not_defined_is_refused(image):
    with pytest.raises(DataError, match=f"'deep.tif', got Pillow mode {image.mode}"):
        decode_bytes(encoded(image, "TIFF"), "deep.tif")


def jpeg() -> bytes:
    return encoded(Image.effect_noise((64, 64), 50), "JPEG")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"this is a text\n", "none of JPEG"),
        (b"\xff\xd8\xff\xe0", "Expected an image"),
        (jpeg()[:1000], "truncated"),
        (encoded(Image.effect_noise((64, 64), 50))[:1000], "truncated"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "none of JPEG"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "none of JPEG"),
    ],
)
def test_a_bad_file_is_named_on_one_line(tmp_path, content, reason):
    path = tmp_path / "cat.jpg"
    path.write_bytes(content)
    with pytest.raises(DataError, match=reason) as caught:
        decode_file(path)
    assert "cat.jpg" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 3


def test_a_missing_file_a_folder_and_a_pipe_are_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.png.*No such file"):
        decode_file(tmp_path / "none.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(DataError, match=r"a folder.*folder\.png"):
        decode_file(tmp_path / "folder.png")
    os.mkfifo(tmp_path / "pipe.png")  # opening it would wait for a writer for ever
    with pytest.raises(DataError, match=r"a pipe.*pipe\.png"):
        decode_file(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    with pytest.raises(DataError, match=r"loop\.png.*symbolic links"):
        decode_file(tmp_path / "loop.png")


@pytest.mark.parametrize("side", [8001, 12_000, 30_000])
def test_a_decompression_bomb_is_refused_by_its_header(monkeypatch, side):
    """Under Pillow's own limit, between its warning and its error, and above both."""
    assert side * side > MAX_PIXELS
    bomb = png(side, side, 1, 0, zlib.compress(b"\0" * 100))

    def never(*_):
        raise AssertionError("pixels were decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", never)
    with pytest.raises(DataError, match=r"'bomb\.png'"):
        decode_bytes(bomb, "bomb.png")


def test_a_huge_file_is_not_read(tmp_path, monkeypatch):
    path = tmp_path / "huge.jpg"
    with path.open("wb") as stream:
        stream.truncate(decode.MAX_FILE_BYTES + 1)
    monkeypatch.setattr("pathlib.Path.read_bytes", lambda _: pytest.fail("the file was read"))
    with pytest.raises(DataError, match=r"huge\.jpg"):
        decode_file(path)


@pytest.mark.parametrize(
    "name", ["with blank.png", "new\nline.png", "-rf.png", "日本.png", b"\xff\xfe.png"]
)
def test_odd_names_are_read_and_named_on_one_printable_line(tmp_path, name):
    path = tmp_path / os.fsdecode(name)
    path.write_bytes(encoded(Image.new("L", (1, 1), 5)))
    assert decode_file(path).getpixel((0, 0)) == 5
    path.write_bytes(b"broken")
    with pytest.raises(DataError) as caught:
        decode_file(path)
    str(caught.value).encode("utf-8")
    assert "\n" not in str(caught.value)


def test_avif_and_the_first_frame_of_a_gif_are_read(tmp_path):
    colour = Image.new("RGB", (16, 16), (200, 30, 30))
    colour.save(tmp_path / "a.avif", quality=100)
    assert (
        np.abs(np.asarray(decode_file(tmp_path / "a.avif")).astype(int) - (200, 30, 30)).max() < 9
    )
    frames = [Image.new("L", (4, 4), value) for value in (7, 250)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert np.asarray(decode_file(tmp_path / "a.gif"))[0, 0].max() == 7


def test_heic_is_read_where_pillow_heif_is_installed(tmp_path):
    heif = pytest.importorskip("pillow_heif")
    heif.from_pillow(Image.new("RGB", (16, 16), (200, 30, 30))).save(tmp_path / "a.heic")
    assert (
        np.abs(np.asarray(decode_file(tmp_path / "a.heic")).astype(int) - (200, 30, 30)).max() < 12
    )
