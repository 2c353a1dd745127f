"""What a run hands over takes its places all together: old or new, never a mixture.

Everything is copied into one folder of the same file system and synced first, so a full disk is met
before anything that counts is touched. Then a journal of the renames is written, and they are done.
A rename that fails undoes those before it. A run that is killed between two leaves its journal, and
the next command that holds the folder's lock does the rest: all the new files are there by then.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from os.path import lexists
from pathlib import Path

from edgeres.errors import ArtefactError
from edgeres.system.files import disk_errors, sync, write_atomic
from edgeres.system.foreign_json import read_json

_NEW, _OLD, _JOURNAL = "new", "old", "moves.json"
PLACE = Path(".edgeres.handover")
"""Where new files wait and old ones are put, in an output folder."""

Move = tuple[str, str]
"""A rename inside an output folder: from, to."""


@dataclass
class Handover:
    """What is about to take its place.

    Attributes:
        new: Folder to write into; each entry takes the place of that name in the output folder.
        gone: Names in the output folder that go away.
        aside: Names in the output folder that are moved, to where.
        last: The entry of ``new`` that takes its place after all others.
    """

    new: Path
    gone: list[str] = field(default_factory=list)
    aside: dict[str, str] = field(default_factory=dict)
    last: str = ""


@contextlib.contextmanager
def handover(output: Path) -> Iterator[Handover]:
    """Lets a block write what an output folder gets; it takes its place when the block ends.

    Args:
        output: The folder; call it only while holding its lock.

    Raises:
        StorageError: The disk is full or something cannot be moved; the folder is as it was.
    """
    place = output / PLACE
    with disk_errors(output):
        finish_handover(output)
        new = place / _NEW
        try:
            new.mkdir(parents=True)
            waiting = Handover(new)
            yield waiting
            _sync_below(new)
            moves = _moves(output, waiting)
            write_atomic(place / _JOURNAL, json.dumps(moves).encode())
            _move_or_undo(output, moves)
        finally:
            if not (place / _JOURNAL).is_file():  # else it could be neither done nor undone
                shutil.rmtree(place, ignore_errors=True)


def finish_handover(output: Path) -> bool:
    """Does the rest of a handover that was killed, or clears away one that had not begun.

    Args:
        output: The folder; call it only while holding its lock.

    Returns:
        Whether there was one to finish.

    Raises:
        StorageError: Something cannot be moved.
        ArtefactError: The journal is damaged.
    """
    place = output / PLACE
    begun = (place / _JOURNAL).is_file()
    with disk_errors(output):
        if begun:
            for source, target in _read_journal(place / _JOURNAL):
                # What was moved has left its place, or is there already: see `_moves`.
                if lexists(output / source) and not lexists(output / target):
                    _move(output, source, target)
            _done(output)
        shutil.rmtree(place, ignore_errors=True)
    return begun


def refuse_half_handover(output: Path) -> None:
    """Refuses a folder in which a run was killed between two renames.

    Raises:
        ArtefactError: Its files are of two runs.
    """
    if (output / PLACE / _JOURNAL).is_file():
        raise ArtefactError(
            f"{output}: a run was stopped while its files took their places, so some are of an "
            "earlier run.",
            hint=f"Run `edgeres clean {output}`, which finishes that, or convert again.",
        )


def _moves(output: Path, waiting: Handover) -> list[Move]:
    """All renames in order; each frees a place or fills one that is free, so none is ambiguous."""
    staged = PLACE / _NEW
    away = PLACE / _OLD
    moves = [(name, to) for name, to in waiting.aside.items() if lexists(output / name)]
    names = sorted((entry.name for entry in waiting.new.iterdir()), key=lambda n: n == waiting.last)
    for name in [*waiting.gone, *names]:
        if lexists(output / name) and name not in waiting.aside:
            moves.append((name, (away / name).as_posix()))
        if name in names:
            moves.append(((staged / name).as_posix(), name))
    return moves


def _move_or_undo(output: Path, moves: Sequence[Move]) -> None:
    done: list[Move] = []
    try:
        sync(output / PLACE)
        for source, target in moves:
            _move(output, source, target)
            done.append((source, target))
    except BaseException:
        for source, target in reversed(done):
            (output / target).rename(output / source)
        for _, target in moves:  # folders that were made for what is put aside
            for parent in list(Path(target).parents)[:-1]:
                with contextlib.suppress(OSError):
                    (output / parent).rmdir()
        _done(output)
        raise
    _done(output)


def _move(output: Path, source: str, target: str) -> None:
    place = output / target
    place.parent.mkdir(parents=True, exist_ok=True)
    (output / source).rename(place)


def _done(output: Path) -> None:
    """The folder is whole: on the disk first, then the journal goes."""
    sync(output)
    (output / PLACE / _JOURNAL).unlink()


def _sync_below(folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        sync(path)
    sync(folder)


def _read_journal(path: Path) -> list[Move]:
    try:
        return [(str(source), str(target)) for source, target in read_json(path)]
    except (ValueError, TypeError) as error:
        raise ArtefactError(
            f"{path}: the journal of a handover is damaged ({error}).",
            hint="Remove it and convert again with --no-cache.",
        ) from error
