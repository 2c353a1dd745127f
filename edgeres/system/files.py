"""Files as edgeres writes them: whole or not at all, with the system's errors made readable."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from edgeres.errors import StorageError, UsageError

StrPath = str | os.PathLike[str]
"""A path as a caller may give it."""


def file_sha256(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_or_empty(path: Path) -> str:
    """Text of a file that not every system has; empty where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def output_file(output: Path, suffix: str, *, source: Path | None = None) -> Path:
    """Where a command writes: its ``--output``, with the kind's suffix if it is not there already.

    Args:
        output: As it was given.
        suffix: Of the kind of file, with the dot.
        source: The file that is read, which must not be overwritten.

    Raises:
        UsageError: It is the source.
    """
    path = (
        output if output.name.lower().endswith(suffix) else output.with_name(output.name + suffix)
    )
    if source is not None and path.exists() and source.exists() and path.samefile(source):
        raise UsageError(
            f"{path} is the file that is read, and would be overwritten.",
            hint="Give another --output.",
        )
    return path


def write_atomic(path: Path, data: bytes) -> None:
    """Writes a file so that a reader sees the old or the new content, never a part.

    Raises:
        StorageError: The disk is full or the folder cannot be written.
    """
    with atomic_writer(path) as stream:
        stream.write(data)


@contextlib.contextmanager
def atomic_writer(path: Path) -> Iterator[IO[bytes]]:
    """A stream whose content takes the place of ``path`` when the block ends without an error.

    Raises:
        StorageError: The disk is full or the folder cannot be written.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            Path(name).chmod(0o644)
            Path(name).replace(path)
        finally:
            Path(name).unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Waits until a file or folder is on the disk; Windows waits for files alone."""
    windows = sys.platform == "win32"
    if windows and path.is_dir():
        return
    handle = os.open(path, os.O_RDWR if windows else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def disk_errors(where: Path) -> Iterator[None]:
    """Turns the system's disk and permission errors into a ``StorageError`` that names the place.

    Raises:
        StorageError: In place of the ``OSError``.
    """
    try:
        yield
    except OSError as error:
        place = error.filename2 or error.filename or where
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise no_space(
                Path(os.fsdecode(error.filename)) if error.filename else None, where
            ) from error
        if error.errno == errno.EFBIG:
            raise StorageError(
                f"{place} may not grow to the size that it needs: {os.strerror(error.errno)}.",
                hint="Raise the limit on the size of files (ulimit -f), or use another disk.",
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR):
            raise StorageError(
                f"{place} cannot be written: {os.strerror(error.errno)}.",
                hint="Give an --output folder that you may write.",
            ) from error
        if error.errno in (errno.EEXIST, errno.EISDIR):
            raise StorageError(
                f"{place} is in the way: {os.strerror(error.errno)}.",
                hint="Move it away, or give another --output.",
            ) from error
        raise


def no_space(place: Path | None, where: Path) -> StorageError:
    """What is said of a full disk: which one it is, and what is free on it.

    Args:
        place: What could not be written, where the system says it.
        where: What was being written, if it does not; temporary files may be what has no room.
    """
    temporary = Path(tempfile.gettempdir())
    if place is None:
        place = min((where, temporary), key=_free_bytes)
    hint = "Free some space and run again; finished stages are kept."
    if place == temporary or (
        temporary in place.parents
        and place.relative_to(temporary).parts[0].startswith(("edgeres-", "tmp"))
    ):
        return StorageError(
            f"no space left for temporary files in {temporary} ({_free_bytes(place)} bytes free "
            "there).",
            hint=f"{hint} TMPDIR names another folder for them.",
        )
    return StorageError(
        f"no space left for {place} ({_free_bytes(place)} bytes free there).", hint=hint
    )


def _free_bytes(where: Path) -> int:
    whole = where.absolute()
    existing = next((p for p in (whole, *whole.parents) if p.exists()), Path("/"))
    return shutil.disk_usage(existing).free
