"""``edgeres clean``: removes stored results that neither the last report nor the last run uses.

Every changed setting leaves the results of the old one in the store, and an interrupted training
its state, for somebody may go back to them. Nobody but the user knows when that is over.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from edgeres.errors import ArtefactError
from edgeres.evaluation import run_folder
from edgeres.report.schema import read_report
from edgeres.system.files import disk_errors
from edgeres.system.publish import PLACE, finish_handover
from edgeres.system.store import USED, WORK, output_lock, remove, restore_replaced, temporaries

_RESULT = re.compile(rf"(?:{WORK})?[a-z_]+-[0-9a-f]{{16}}")


@dataclass(frozen=True)
class Cleaned:
    """What was removed from one output folder, or would be.

    Attributes:
        folder: The output folder.
        removed: Names in its store, sorted.
        removed_bytes: Their size.
        kept: How many results stay.
        kept_bytes: Their size.
        finished: Whether a handover that was killed was finished.
    """

    folder: Path
    removed: tuple[str, ...]
    removed_bytes: int
    kept: int
    kept_bytes: int
    finished: bool

    def to_dict(self) -> dict[str, object]:
        """As plain JSON values."""
        return {**vars(self), "folder": str(self.folder), "removed": list(self.removed)}


def clean(folder: Path, *, everything: bool = False, dry_run: bool = False) -> list[Cleaned]:
    """Cleans an output folder of ``convert`` or ``tune``, or each one in a folder of them.

    Args:
        folder: The folder, for instance ``runs``.
        everything: Remove all stored results; the next run does every stage anew.
        dry_run: Only say what would be removed.

    Raises:
        ArtefactError: No output folder is there.
        StorageError: A run holds it, or it cannot be written.
    """
    outputs = [path for path in (folder, *sorted(_folders(folder))) if _is_output(path)]
    if not outputs:
        raise ArtefactError(
            f"{folder}: no output folder of `edgeres convert` is there.", hint="Check the path."
        )
    folders = []
    for output in outputs:
        with output_lock(output), disk_errors(output):
            folders.append(_clean(output, everything=everything, dry_run=dry_run))
    return folders


def unused_bytes(output: Path) -> int:
    """Bytes of stored results that :func:`clean` would remove; call it while holding the lock."""
    return _clean(output, everything=False, dry_run=True).removed_bytes


def _clean(output: Path, *, everything: bool, dry_run: bool) -> Cleaned:
    store = output / run_folder.STAGES
    finished = (output / PLACE).exists() if dry_run else finish_handover(output)
    if not dry_run:
        restore_replaced(store)
    used_names = frozenset() if everything else _wanted(output)
    removable = temporaries(store)
    count = kept_bytes = 0
    for path in sorted(_folders(store)):
        if _RESULT.fullmatch(path.name) is None:
            continue  # whatever it is, no stage made it
        if path.name.removeprefix(WORK) in used_names:
            count, kept_bytes = count + 1, kept_bytes + _size(path)
        else:
            removable.append(path)
    removed_bytes = sum(_size(path) for path in removable)
    for path in () if dry_run else removable:
        remove(path)
    names = tuple(sorted(path.name for path in removable))
    return Cleaned(output, names, removed_bytes, count, kept_bytes, finished)


def _wanted(output: Path) -> frozenset[str]:
    """Results that the last report was made from, and those that the last run asked for.

    The second are more where the last run did not end: it goes on from them.

    Raises:
        ArtefactError: The report is damaged, so that what it needs is not known.
    """
    names: set[str] = set()
    if (output / run_folder.REPORT).is_file():
        names |= {stage.result for stage in read_report(output / run_folder.REPORT).stages}
    record = output / run_folder.STAGES / USED
    if record.is_file():
        names |= set(record.read_text(encoding="utf-8").split())
    return frozenset(names)


def _is_output(path: Path) -> bool:
    return (path / run_folder.STAGES).is_dir() or (path / PLACE).is_dir()


def _folders(path: Path) -> list[Path]:
    if not path.is_dir():
        return []
    return [entry for entry in path.iterdir() if entry.is_dir() and not entry.is_symlink()]


def _size(path: Path) -> int:
    """Bytes of a folder's files, or of a file."""
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.lstat().st_size for file in files if not file.is_dir())
