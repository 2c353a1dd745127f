"""What backends compile for a device and keep for the next process: a folder of the user's cache.

    <cache>/edgeres/compiled/<backend>-<key>/

The key is a digest of what a compiled model depends on besides itself: runtime, device, driver. A
folder of an earlier driver is never read again, so what was not used for a month is removed by
``edgeres clean``, and all of it by ``edgeres clean --all``.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path

_UNUSED_S = 30 * 24 * 3600.0


def user_cache() -> Path:
    """``$XDG_CACHE_HOME``, else where the system keeps what can be made anew, and our folder."""
    if told := os.environ.get("XDG_CACHE_HOME"):
        return Path(told) / "edgeres"
    if sys.platform == "win32" and (told := os.environ.get("LOCALAPPDATA")):
        return Path(told) / "edgeres" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "edgeres"
    return Path.home() / ".cache" / "edgeres"


def compiled_folder(backend: str, depends_on: Mapping[str, str]) -> Path | None:
    """A folder for compiled models of one device, made for this user alone.

    Args:
        backend: Who compiles.
        depends_on: What a compiled model depends on besides itself.

    Returns:
        ``None`` where it cannot be written: then nothing is kept, and each process compiles.
    """
    text = json.dumps(dict(sorted(depends_on.items())))
    folder = _compiled() / f"{backend}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.utime(folder)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None


def clean_compiled(*, everything: bool = False, dry_run: bool = False) -> tuple[list[str], int]:
    """Removes compiled models that were not used for a month, or all.

    Returns:
        Names of the folders that were removed, or would be, and their size in bytes.
    """
    removed, size = [], 0
    folders = sorted(_compiled().iterdir()) if _compiled().is_dir() else []
    for folder in folders:
        if folder.is_symlink() or not folder.is_dir():
            continue
        if everything or time.time() - folder.stat().st_mtime > _UNUSED_S:
            size += sum(f.lstat().st_size for f in folder.rglob("*") if not f.is_dir())
            removed.append(folder.name)
            if not dry_run:
                shutil.rmtree(folder, ignore_errors=True)
    return removed, size


def _compiled() -> Path:
    return user_cache() / "compiled"
