"""Stage results on disk: keyed by content, written atomically, verified when they are read.

A stage is a folder of files made from known inputs under known settings. Its key is the SHA-256 of
the canonical JSON of both and of what made it (:mod:`edgeres.system.stage_code`), so equal work is
found again and changed work is not. The manifest is written last, after the files are synced, and a
folder gets its final name only then: a killed run leaves temporaries, never half a result.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from edgeres.errors import StorageError
from edgeres.system.files import disk_errors, file_sha256, sync, write_atomic
from edgeres.system.foreign_json import read_json
from edgeres.system.memory import peak_rss_bytes
from edgeres.system.stage_code import made_by

MANIFEST = "manifest.json"
USED = "used.txt"
"""Names of the results that the last run in a folder asked for, one a line."""

_LOCK = ".edgeres.lock"
_HOLDER = ".edgeres.holder"
WORK = "unfinished-"
_OLD = "-replaced"


class DamagedResultWarning(UserWarning):
    """A stored stage result did not match its manifest and is made again."""


class StaleLockWarning(UserWarning):
    """The last run in this folder ended without giving its lock back."""


@dataclass(frozen=True)
class StageResult:
    """A finished stage: its folder, its key, and how it came about.

    ``seconds`` is the time of this call; ``peak_rss_bytes`` the highest resident memory of the
    process so far.
    """

    name: str
    key: str
    path: Path
    cached: bool
    seconds: float
    peak_rss_bytes: int

    def file(self, name: str) -> Path:
        """Path of one file of the result."""
        return self.path / name


@dataclass(frozen=True)
class Store:
    """Stage results under ``root``; ready ones that are shipped lie read-only under ``shipped``."""

    root: Path
    shipped: Path | None = None
    use_cache: bool = True

    def stage(
        self,
        name: str,
        *,
        inputs: Mapping[str, str],
        settings: Mapping[str, Any],
        produce: Callable[[Path, Path], None],
    ) -> StageResult:
        """Finds the result of a stage, or makes it.

        Args:
            name: Stage name, e.g. ``quantize``.
            inputs: What it is made from: name to SHA-256.
            settings: Everything else that changes the result; must be JSON.
            produce: Writes the result's files into the (temporary) folder it is given first. The
                second is for states of long work: it is not made beforehand, outlives a killed run,
                and goes away with success.

        Raises:
            StorageError: The disk is full or the folder cannot be written.
        """
        key = content_key(name, inputs, settings)
        started = time.monotonic()
        final = self.root / f"{name}-{key[:16]}"
        work = self.root / f"{WORK}{final.name}"
        self._note_use(final.name)
        if self.use_cache:
            for folder in (final, *([self.shipped / final.name] if self.shipped else [])):
                if _is_whole(folder, key):
                    return StageResult(
                        name, key, folder, True, time.monotonic() - started, peak_rss_bytes()
                    )
        with disk_errors(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=self.root))
            try:
                produce(temporary, work)
                _write_manifest(temporary, name, key, inputs, settings)
                replace_folder(temporary, final)
                shutil.rmtree(work, ignore_errors=True)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        return StageResult(name, key, final, False, time.monotonic() - started, peak_rss_bytes())

    def begin(self) -> None:
        """Removes what killed runs left behind and forgets what the last run asked for.

        Call it only while holding the lock.

        Raises:
            StorageError: The folder cannot be written.
        """
        restore_replaced(self.root)
        for leftover in temporaries(self.root):
            with contextlib.suppress(OSError):
                remove(leftover)
        with disk_errors(self.root):
            (self.root / USED).unlink(missing_ok=True)

    def _note_use(self, name: str) -> None:
        """Writes down that a result is asked for, so that nobody takes it for a leftover."""
        with disk_errors(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            with (self.root / USED).open("a", encoding="utf-8") as stream:
                stream.write(f"{name}\n")


def temporaries(root: Path) -> list[Path]:
    """What runs that were killed left in a store: folders of stages, and files half written."""
    return sorted(root.glob(".*-*"))


def remove(path: Path) -> None:
    """Removes a folder with all that is in it, or a file."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def content_key(name: str, inputs: Mapping[str, str], settings: Mapping[str, Any]) -> str:
    """SHA-256 over the canonical JSON of a stage's name, code, inputs and settings."""
    content: dict[str, Any] = {
        "stage": name,
        "inputs": dict(inputs),
        "settings": dict(settings),
        **made_by(name),
    }
    return json_sha256(content)


def json_sha256(value: Any) -> str:
    """SHA-256 of a value's canonical JSON: sorted keys, no spaces, no NaN."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def replace_folder(source: Path, target: Path) -> None:
    """Gives a finished folder its final name; an older folder of that name goes away after."""
    for file in sorted(source.rglob("*")):
        if file.is_file():
            sync(file)
    source.chmod(0o755)
    old = target.with_name(f".{target.name}{_OLD}")
    shutil.rmtree(old, ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):
        target.rename(old)
    source.rename(target)
    sync(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def restore_replaced(folder: Path) -> None:
    """Brings back folders that a killed run had moved aside and not yet replaced."""
    for old in folder.glob(f".*{_OLD}"):
        target = folder / old.name.removeprefix(".").removesuffix(_OLD)
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.rename(target)


@contextlib.contextmanager
def output_lock(folder: Path) -> Iterator[None]:
    """Holds an output folder for one run; the system gives it back if the process dies.

    Raises:
        StorageError: Another run holds the folder, or it cannot be written.
    """
    holder = folder / _HOLDER
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name in (_LOCK, _HOLDER):
            _refuse_odd(folder / name)
        lock = FileLock(folder / _LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            who = _holder(holder) if holder.is_file() else "another process"
            raise StorageError(
                f"{folder} is in use by {who}.",
                hint="Wait for it to end, or give another --output.",
            ) from error
        if holder.is_file():
            warnings.warn(
                f"took over {folder} from {_holder(holder)}, which ended without giving it back",
                StaleLockWarning,
                stacklevel=3,
            )
        holder.write_text(f"process {os.getpid()}\n")
    try:
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _refuse_odd(path: Path) -> None:
    """Refuses a lock that leads elsewhere or is no file: no run of edgeres left it.

    Raises:
        StorageError: It is one.
    """
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise StorageError(
            f"{path} is a link or no file, so it locks nothing.",
            hint="Remove it, or give another --output.",
        )


def _holder(path: Path) -> str:
    """Who holds a lock, as its file says; the file may hold anything."""
    with path.open("rb") as stream:
        told = " ".join(stream.read(100).decode(errors="replace").split())
    return told if told.startswith("process ") else "another process"


def _is_whole(folder: Path, key: str) -> bool:
    """True where a result exists and each file has the hash that its manifest says."""
    if not folder.is_dir():
        return False
    try:
        manifest = read_json(folder / MANIFEST)
        whole = manifest["key"] == key and all(
            file_sha256(folder / name) == sha256 for name, sha256 in manifest["files"].items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        warnings.warn(
            f"{folder} does not match its manifest and is made again",
            DamagedResultWarning,
            stacklevel=4,
        )
    return whole


def _write_manifest(
    folder: Path, name: str, key: str, inputs: Mapping[str, str], settings: Mapping[str, Any]
) -> None:
    files = {
        file.relative_to(folder).as_posix(): file_sha256(file)
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
    manifest = {
        "stage": name,
        "key": key,
        "inputs": dict(inputs),
        "settings": dict(settings),
        **made_by(name),
        "files": files,
    }
    write_atomic(folder / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True).encode())
