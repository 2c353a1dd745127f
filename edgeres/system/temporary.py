"""Temporary folders that go with the run that made them, even if that run was killed.

A folder holds a file that its run keeps locked; the system gives the lock back when the process
ends, however it ends. Whoever makes the next folder of that kind in the same place removes those
whose lock is free. Where the system has no such locks, a killed run's folder stays.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from edgeres.errors import StorageError

_ALIVE = ".alive"
_FILES = "files"
_PREFIX = "edgeres-"


@contextlib.contextmanager
def temporary_folder(*, beside: Path | None = None) -> Iterator[Path]:
    """An empty folder that is gone when the block ends, or with the next run.

    Args:
        beside: The file or folder that is being made, on whose disk the folder shall lie; ``None``
            for the system's place for temporary files.

    Raises:
        StorageError: There is no such place.
    """
    prefix = _PREFIX if beside is None else f".{beside.name[:100]}."
    place = temporary_place() if beside is None else beside.parent
    _remove_dead(place, prefix)
    whole, lock = _locked_folder(place, prefix)
    try:
        files = whole / _FILES
        files.mkdir()
        yield files
    finally:
        # Windows cannot remove a file that a runtime has mapped; there it stays.
        shutil.rmtree(whole, ignore_errors=True)
        os.close(lock)


def temporary_place() -> Path:
    """Where temporary files go: TMPDIR, or what the system names.

    Raises:
        StorageError: Nowhere can one be written.
    """
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        raise StorageError(
            f"no temporary file can be written ({error.strerror}).",
            hint="Free some space, or let TMPDIR name a folder that you may write.",
        ) from error


def _locked_folder(place: Path, prefix: str) -> tuple[Path, int]:
    """A new folder and the open file that keeps it."""
    while True:
        whole = Path(tempfile.mkdtemp(prefix=prefix, dir=place))
        with contextlib.suppress(FileNotFoundError):
            lock = os.open(whole / _ALIVE, os.O_RDWR | os.O_CREAT, 0o600)
            if _take(lock) and (whole / _ALIVE).is_file():
                return whole, lock
            os.close(lock)  # between two lines it was taken for a dead run's: so another one


def _remove_dead(place: Path, prefix: str) -> None:
    """Removes folders of this kind whose runs have ended; one without a lock is left alone."""
    for whole in _folders(place, prefix):
        with contextlib.suppress(OSError):
            lock = os.open(whole / _ALIVE, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
            try:
                if _take(lock, known=False):
                    shutil.rmtree(whole, ignore_errors=True)
            finally:
                os.close(lock)


def _folders(place: Path, prefix: str) -> list[Path]:
    try:
        with os.scandir(place) as entries:
            return [
                Path(entry.path)
                for entry in entries
                if entry.name.startswith(prefix) and entry.is_dir(follow_symlinks=False)
            ]
    except OSError:
        return []


def _take(lock: int, *, known: bool = True) -> bool:
    """Locks an open file if nobody else holds it; ``known`` where the system has no locks."""
    try:
        import fcntl
    except ImportError:  # Windows
        return known
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
