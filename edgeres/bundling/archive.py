"""The container of a bundle: a ZIP file of one exact form, written byte for byte the same.

Entries are stored, never compressed, in the order of their names behind the manifest, with the
same date and mode and nothing between them. A reader takes this form and no other, so there is no
bomb (nothing unpacks to more than it is), no link, no second entry of a name and no gap to hide
things in; ``unzip`` and every other tool still opens it. Layout: PKWARE APPNOTE 6.3.
"""

from __future__ import annotations

import hashlib
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from edgeres.errors import ArtefactError, StorageError, one_line
from edgeres.system.closing import Closing
from edgeres.system.files import atomic_writer

MANIFEST = "manifest.json"
MAX_ENTRIES = 1000
MAX_MANIFEST_BYTES = 4 << 20
MAX_BYTES = (4 << 30) - 1
"""Largest bundle, the largest ZIP file without 64-bit fields."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}(/[A-Za-z0-9_][A-Za-z0-9._-]{0,99}){0,4}")
_END_MAGIC = b"PK\5\6"
_DATE = (1980, 1, 1, 0, 0, 0)
_MODE = (stat.S_IFREG | 0o644) << 16
_VERSION = 20
_LOCAL_BYTES, _END_BYTES = 30, 22
_DIRECTORY_BYTES = MAX_ENTRIES * 600
_CHUNK = 1 << 20
_HINT = "Get the bundle again from where it was made, or make it again with `edgeres bundle`."
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    OSError,
    ValueError,
    struct.error,
    NotImplementedError,
    RuntimeError,
    OverflowError,
    EOFError,
)


def write_archive(out: Path, manifest: bytes, files: Mapping[str, Path | bytes]) -> None:
    """Writes a bundle, whole or not at all; equal contents give equal bytes.

    Args:
        out: The file to write.
        manifest: Content of the manifest, the first entry.
        files: Entry name to a file or to its content.

    Raises:
        ArtefactError: A name that no bundle may hold, or more than a bundle can hold.
        StorageError: The file cannot be written.
    """
    for name in files:
        if not is_name(name) or name == MANIFEST:
            raise ArtefactError(f"{name!r} cannot be the name of a file in a bundle.")
    if len(files) >= MAX_ENTRIES:
        raise ArtefactError(f"a bundle holds at most {MAX_ENTRIES} files, got {len(files)}.")
    with (
        atomic_writer(out) as stream,
        zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED, allowZip64=False) as archive,
    ):
        try:
            _write(archive, MANIFEST, manifest)
            for name in sorted(files):
                content = files[name]
                _write(archive, name, content if isinstance(content, bytes) else _read(content))
        except zipfile.LargeZipFile as error:
            raise ArtefactError(
                f"{out}: a bundle holds at most {MAX_BYTES:,} bytes.",
                hint="Bundle one target with --target.",
            ) from error


def is_name(name: str) -> bool:
    """Whether a bundle may hold an entry of this name: plain parts, no way up, no hidden files."""
    return _NAME.fullmatch(name) is not None and not any(
        part.endswith(".") for part in name.split("/")
    )


class Archive(Closing):
    """A bundle that is open for reading; every check of its form is done when it is opened.

    Args:
        path: The bundle.

    Raises:
        ArtefactError: No such file, or anything but the exact form that :func:`write_archive`
            writes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stream = _open(path)
        try:
            self._sizes, self._starts, self._checksums = _entries(self._stream, path)
        except BaseException:
            self._stream.close()
            raise

    @property
    def sizes(self) -> Mapping[str, int]:
        """Entry name to its size in bytes, in the order of the file."""
        return self._sizes

    def read(self, name: str, *, limit: int) -> bytes:
        """Content of one entry of at most ``limit`` bytes, whose CRC-32 was checked.

        Raises:
            ArtefactError: No such entry, a larger one, or a damaged one.
        """
        size = self._sizes.get(name)
        if size is None or size > limit:
            got = "none" if size is None else f"{size:,} bytes"
            raise refused(self.path, f"expected {name} of at most {limit:,} bytes, got {got}")
        self._stream.seek(self._starts[name])
        content = self._stream.read(size)
        if zlib.crc32(content) != self._checksums[name]:
            raise refused(self.path, f"{name} is damaged")
        return content

    def extract(self, name: str, target: Path, sha256: str) -> None:
        """Writes one entry to a new file, and removes it again where its hash is another.

        Raises:
            ArtefactError: No such entry, or not the content that ``sha256`` stands for.
            StorageError: The file exists, or cannot be written.
        """
        if name not in self._sizes:
            raise refused(self.path, f"it has no {name}")
        try:
            with target.open("xb") as stream:
                digest = self._copy(name, stream)
        except FileExistsError as error:
            raise StorageError(f"{target} is in the way.", hint="Give an empty folder.") from error
        if digest != sha256:
            target.unlink()
            raise _wrong_hash(self.path, name)

    def check(self, name: str, sha256: str) -> None:
        """Compares the hash of one entry with the one that is expected.

        Raises:
            ArtefactError: They differ.
        """
        if self._copy(name, None) != sha256:
            raise _wrong_hash(self.path, name)

    def close(self) -> None:
        """Closes the file."""
        self._stream.close()

    def _copy(self, name: str, out: IO[bytes] | None) -> str:
        """Hashes one entry, and copies it on the way where ``out`` is given."""
        digest = hashlib.sha256()
        self._stream.seek(self._starts[name])
        left = self._sizes[name]
        while left:
            part = self._stream.read(min(_CHUNK, left))
            if not part:
                raise refused(self.path, f"{name} is cut short")
            digest.update(part)
            if out is not None:
                out.write(part)
            left -= len(part)
        return digest.hexdigest()


def refused(path: Path, reason: str) -> ArtefactError:
    """The error of a bundle that is not taken."""
    return ArtefactError(f"{path}: is not a whole bundle of edgeres: {reason}.", hint=_HINT)


def _wrong_hash(path: Path, name: str) -> ArtefactError:
    return refused(path, f"{name} has another SHA-256 than its manifest says")


def _open(path: Path) -> IO[bytes]:
    try:
        if not path.is_file():
            raise ArtefactError(f"{path}: no such bundle.", hint="Check the path.")
        return path.open("rb")
    except (OSError, ValueError) as error:
        raise ArtefactError(f"{path}: cannot be read ({error}).", hint="Check the path.") from error


def _entries(
    stream: IO[bytes], path: Path
) -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
    """Sizes, places and CRC-32 of the contents by name, after the whole form was checked."""
    try:
        directory = _check_end(stream, path)
        with zipfile.ZipFile(stream) as archive:
            infos = archive.infolist()
    except _ZIP_ERRORS as error:
        raise refused(path, one_line(error)) from error
    sizes: dict[str, int] = {}
    starts: dict[str, int] = {}
    offset = 0
    folded: set[str] = set()
    for info in infos:
        try:
            problem = _problem(info, offset, stream)
        except _ZIP_ERRORS as error:
            raise refused(path, f"a header is cut short ({error})") from error
        if info.filename.casefold() in folded:
            problem = "a second entry of this name"
        folded.add(info.filename.casefold())
        if problem:
            raise refused(path, f"entry {info.filename[:100]!r}: {problem}")
        sizes[info.filename] = info.file_size
        starts[info.filename] = offset + _LOCAL_BYTES + len(info.filename)
        offset = starts[info.filename] + info.file_size
    if offset != directory or not infos or infos[0].filename != MANIFEST:
        raise refused(path, "its entries are not where they must be")
    stream.seek(directory)
    if not stream.read().startswith(b"".join(_record(info) for info in infos) + _END_MAGIC):
        raise refused(path, "its directory is not as it is written")
    names = list(sizes)[1:]
    if names != sorted(names):
        raise refused(path, "its entries are not in order")
    return sizes, starts, {info.filename: info.CRC for info in infos}


def _check_end(stream: IO[bytes], path: Path) -> int:
    """Reads the end record before anything is believed; gives the start of the directory."""
    size = stream.seek(0, 2)
    if not _END_BYTES < size <= MAX_BYTES:
        raise refused(path, f"{size:,} bytes")
    stream.seek(size - _END_BYTES)
    record = struct.unpack("<4s4H2LH", stream.read(_END_BYTES))
    magic, disk, first_disk, here, entries, length, start, comment = record
    if magic != _END_MAGIC or disk or first_disk or comment or here != entries:
        raise refused(path, "its end is not that of a bundle")
    if entries > MAX_ENTRIES or length > _DIRECTORY_BYTES:
        raise refused(path, f"{entries:,} entries")
    if start + length + _END_BYTES != size:
        raise refused(path, "its directory is not where it must be")
    return int(start)


def _problem(info: zipfile.ZipInfo, offset: int, stream: IO[bytes]) -> str:
    """What is wrong with an entry; empty where it has the exact form."""
    size = info.file_size
    rules = (
        (is_name(info.filename) and info.orig_filename == info.filename, "no name for a file"),
        (info.external_attr == _MODE and info.create_system == 3, "not a plain file"),
        (info.compress_type == zipfile.ZIP_STORED and info.compress_size == size, "compressed"),
        (not info.extra and not info.comment, "it carries more than its content"),
        (info.header_offset == offset, "not where it must be"),
        (_same_header(info, stream), "its header differs from the directory"),
    )
    return next((problem for holds, problem in rules if not holds), "")


def _record(info: zipfile.ZipInfo) -> bytes:
    """The directory record of an entry, as it is written."""
    size, name = info.file_size, info.filename.encode()
    return struct.pack(
        "<4s4B4H3L5H2L", b"PK\1\2", _VERSION, 3, _VERSION, 0, 0, 0, 0, 33, info.CRC, size, size,
        len(name), 0, 0, 0, 0, _MODE, info.header_offset,
    ) + name  # fmt: skip


def _same_header(info: zipfile.ZipInfo, stream: IO[bytes]) -> bool:
    """Whether the header in front of the content says what the directory says."""
    stream.seek(info.header_offset)
    header = struct.unpack("<4s5H3L2H", stream.read(_LOCAL_BYTES))
    size = info.file_size
    expected = (b"PK\3\4", _VERSION, 0, 0, 0, 33, info.CRC, size, size, len(info.filename), 0)
    return header == expected and stream.read(header[9]) == info.filename.encode()


def _write(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    info = zipfile.ZipInfo(name, _DATE)
    info.create_system, info.external_attr = 3, _MODE
    archive.writestr(info, content)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ArtefactError(f"{path}: cannot be read ({error.strerror}).") from error
