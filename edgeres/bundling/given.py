"""What a person names on the command line to be answered: files, folders, or standard input."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

from PIL import Image

from edgeres.bundling.inputs import ImageInput
from edgeres.data.decode import MAX_FILE_BYTES
from edgeres.data.file_kind import FORMATS
from edgeres.data.imagefolder import EXTENSIONS, files_below
from edgeres.data.preprocess import Preprocess
from edgeres.data.sound import ENDINGS
from edgeres.errors import DataError, UsageError

STDIN = "-"
_START = 4096  # bytes within which every format that is read shows itself
_LONGEST_NAME = 32_768


def given_samples(
    words: Iterable[str], preprocess: Preprocess, stdin: BinaryIO
) -> Iterator[tuple[str, ImageInput]]:
    """Samples one after the other, each with the name it is told by.

    Args:
        words: Files; folders, of which all files count that the network can take, at any depth; or
            ``-``: one image, or the names of files and folders, a line each, as they come.
        preprocess: What the network takes.
        stdin: What ``-`` stands for.

    Raises:
        DataError: A folder without such files, or names that are none.
        UsageError: ``-`` twice.
    """
    listed = tuple(words)
    if listed.count(STDIN) > 1:
        raise UsageError("standard input (-) is named twice.", hint="Name it once.")
    for word in listed:
        if word == STDIN:
            yield from _from_stdin(stdin, preprocess)
        else:
            yield from _from_path(word, preprocess)


def _endings(preprocess: Preprocess) -> tuple[str, ...]:
    if preprocess.features:
        return (".npy",)
    return ENDINGS if preprocess.log_mel is not None else EXTENSIONS


def _from_path(word: str, preprocess: Preprocess) -> Iterator[tuple[str, ImageInput]]:
    path = Path(word)
    if not path.is_dir():
        yield word, path
        return
    endings = _endings(preprocess)
    found = files_below(path, endings)
    if not found:
        raise DataError(
            f"{word}: holds no file that this network can take ({', '.join(endings)}).",
            hint="Name the files, or another folder.",
        )
    for name in found:
        yield str(path / name), path / name


def _from_stdin(stdin: BinaryIO, preprocess: Preprocess) -> Iterator[tuple[str, ImageInput]]:
    if not isinstance(stdin, io.BufferedReader):
        stdin = io.BufferedReader(cast("io.RawIOBase", stdin))
    if _is_image(stdin.peek(_START)):
        data = stdin.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise DataError(f"standard input has more than {MAX_FILE_BYTES:,} bytes, no image has.")
        yield STDIN, data
        return
    while line := stdin.readline(_LONGEST_NAME):
        try:
            name = line.decode().rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise DataError(
                "standard input is neither one image nor the names of files.",
                hint="Pipe an image, or `find FOLDER -name '*.jpg'`.",
            ) from error
        if name.strip():
            yield from _from_path(name, preprocess)


def _is_image(begin: bytes) -> bool:
    """Whether bytes begin an image: a format's own mark, of a file that is not whole yet."""
    if begin[4:8] == b"ftyp":
        return True
    try:
        with Image.open(io.BytesIO(begin), formats=FORMATS):
            return True
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return False
