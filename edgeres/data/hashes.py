"""SHA-256 of many files, read again only where a file may have changed since it was read last.

A data set is known by the content of its images: a photograph that is replaced by another of the
same name and size is another set, and a copy on another machine is the same one. Reading 50,000
photographs takes seconds, a million minutes, so what was read is remembered by what the system says
of a file: size, times of the last change of content and of status, inode and device. A program can
set the first time back, the second only by setting the clock. As in git's index, a file that
changed just before it was read is not remembered, for it may change again within the clock's step.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from edgeres.errors import StorageError
from edgeres.system.container_limits import usable_threads
from edgeres.system.files import write_atomic
from edgeres.system.foreign_json import read_json

MISSING = "missing"
"""Stands for the hash of a file that cannot be read; decoding it will name it."""

_SETTLED_NS = 2_000_000_000  # coarsest step of a file system's clock that is in use
_SCHEMA = 1
_BLOCK = 256  # files that one thread takes at a time

Status = tuple[int, int, int, int, int]


class FileHashes:
    """Hashes of files by content, remembered in a file between runs where one is given."""

    def __init__(self, kept: Path | None = None) -> None:
        self._kept = kept
        self._known: dict[str, tuple[Status, str]] = {} if kept is None else _read(kept)
        self._asked: set[str] = set()
        self._changed = False

    def of(self, paths: Sequence[str]) -> list[str]:
        """SHA-256 of each file, :data:`MISSING` where one cannot be read; in the same order."""
        names = [os.path.abspath(path) for path in paths]  # noqa: PTH100  # Path is 20 times slower
        self._asked.update(names)
        blocks = [names[start : start + _BLOCK] for start in range(0, len(names), _BLOCK)]
        # One file at a time leaves the disk idle while it is hashed; hashing lets threads run.
        with ThreadPoolExecutor(usable_threads()) as pool:
            hashes = pool.map(lambda block: [self._one(name) for name in block], blocks)
            return [sha256 for block in hashes for sha256 in block]

    def save(self) -> None:
        """Writes down what was asked for; a disk without room for it costs only time next time."""
        if self._kept is None or not self._changed:
            return
        files = {name: self._known[name] for name in self._asked & self._known.keys()}
        content = {"schema": _SCHEMA, "files": files}
        with contextlib.suppress(StorageError):
            write_atomic(self._kept, json.dumps(content, separators=(",", ":")).encode())
            self._changed = False

    def _one(self, name: str) -> str:
        try:
            status = _status(name)
            entry = self._known.get(name)
            if entry is not None and entry[0] == status:
                return entry[1]
            now = time.time_ns()
            with open(name, "rb") as stream:  # noqa: PTH123
                sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
            if _status(name) == status and max(status[1], status[2]) < now - _SETTLED_NS:
                self._known[name] = (status, sha256)
                self._changed = True
        except (OSError, ValueError):
            return MISSING
        return sha256


def _status(name: str) -> Status:
    status = os.stat(name)  # noqa: PTH116
    if not stat.S_ISREG(status.st_mode):
        raise OSError(f"{name} is no regular file")  # a pipe would be waited for
    return (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev)


def _read(path: Path) -> dict[str, tuple[Status, str]]:
    """What was kept; nothing where it is missing or damaged: then all is read again."""
    try:
        content = read_json(path)
        if content["schema"] != _SCHEMA:
            return {}
        return {
            str(name): (_as_status(status), str(sha256))
            for name, (status, sha256) in content["files"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _as_status(values: Sequence[int]) -> Status:
    size, changed, status_changed, inode, device = (int(value) for value in values)
    return (size, changed, status_changed, inode, device)
