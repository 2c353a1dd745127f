"""Where in a folder the classes of a split lie, for the layouts that people have.

::

    PATH/CLASS/*.jpg                    PATH serves every split
    PATH/train/CLASS, PATH/val/CLASS    folders of splits, in any case and by the names below
    PATH/anything/train/CLASS           one level more, as archives unpack

A folder counts as split where all that it holds are splits, or where two kinds of splits stand in
it beside other things, which are then said. Folders that hold the same classes but have names that
say nothing are refused: taken as classes they would be wrong, and nobody can tell which is which.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeres.data.types import SPLIT_NAMES, Split
from edgeres.errors import DataError

_KIND_OF = {name: kind for kind, names in SPLIT_NAMES.items() for name in reversed(names)}
_LISTED = 5
_FEWEST = 2  # of classes that several folders share
_HINT = (
    "Expected layout: PATH/CLASS/*.jpg, or PATH/train/CLASS/*.jpg and PATH/val/CLASS/*.jpg; "
    "sounds end in .wav or .flac."
)


@dataclass(frozen=True)
class Place:
    """Where the classes of a split lie.

    Attributes:
        folder: The folder that holds them.
        notes: What a person should know of how it was found.
    """

    folder: Path
    notes: tuple[str, ...] = ()


def left_behind(name: str) -> bool:
    """Whether a folder or a file is no part of a data set by its name."""
    return name.startswith(".") or name in ("__MACOSX", "_background_noise_")


def folders_in(path: Path) -> tuple[str, ...]:
    """Names of the folders in ``path``, sorted; links to folders count.

    Raises:
        DataError: It is no folder, or cannot be read.
    """
    try:
        with os.scandir(path) as entries:
            return tuple(sorted(entry.name for entry in entries if entry.is_dir()))
    except (OSError, ValueError) as error:
        raise DataError(
            f"Expected a folder of images at {str(path)!r}, got: "
            f"{getattr(error, 'strerror', None) or error}.",
            hint=_HINT,
        ) from error


def class_folders(path: Path) -> tuple[str, ...]:
    """Names of the folders in ``path`` that can be classes or splits, sorted.

    Raises:
        DataError: As :func:`folders_in`.
    """
    return tuple(name for name in folders_in(path) if not left_behind(name))


def find_place(path: Path, split: Split, is_sample: Callable[[str], bool]) -> Place:
    """The folder that holds the classes of a split.

    Args:
        path: What the user named.
        split: Which part of it.
        is_sample: Whether a file counts, by its name.

    Raises:
        DataError: No folder for this split, or several that may be splits or classes.
    """
    notes: tuple[str, ...] = ()
    folders = class_folders(path)
    if len(folders) == 1 and not _kinds(folders) and not _has_samples(path, is_sample):
        inside = class_folders(path / folders[0])
        if len(inside) > 1 and not _has_samples(path / folders[0], is_sample):
            path, folders = path / folders[0], inside
            notes = (f"the data set lies one level deeper, in {path.name!r}",)
    if not _are_splits(path, folders):
        _refuse_unnamed_splits(path, folders, is_sample)
        return Place(path, notes)
    others = [name for name in folders if name.lower() not in _KIND_OF]
    if others:
        shown = ", ".join(map(repr, others[:_LISTED]))
        more = f" and {len(others) - _LISTED} more" if len(others) > _LISTED else ""
        notes = (*notes, f"{shown}{more} beside the splits are taken for no part of the set")
    return Place(_of_split(path, folders, split), notes)


def _kinds(folders: Sequence[str]) -> set[Split]:
    """Which splits the names of folders stand for."""
    return {_KIND_OF[name.lower()] for name in folders if name.lower() in _KIND_OF}


def _are_splits(path: Path, folders: Sequence[str]) -> bool:
    named = [name for name in folders if name.lower() in _KIND_OF]
    if not named:
        return False
    if len(named) == len(folders):
        return True
    # "train" may be a class, of vehicles; a training and a validation folder are none.
    return len(_kinds(named)) > 1 and any(class_folders(path / name) for name in named)


def _of_split(path: Path, folders: Sequence[str], split: Split) -> Path:
    by_name = {name.lower(): name for name in folders}
    found = [by_name[name] for name in SPLIT_NAMES[split] if name in by_name]
    if not found:
        raise DataError(
            f"Expected a folder {' or '.join(map(repr, SPLIT_NAMES[split]))} for the {split} split "
            f"in {str(path)!r}, got {', '.join(map(repr, folders))}.",
            hint="Name the folder so, or give the class folders' parent as PATH.",
        )
    if split != "calibration":  # a test set without labels may lie flat beside one with classes
        found = [name for name in found if class_folders(path / name)] or found
    return path / found[0]


def _refuse_unnamed_splits(
    path: Path, folders: Sequence[str], is_sample: Callable[[str], bool]
) -> None:
    """Refuses folders that hold nothing but folders, the same in each."""
    if len(folders) < _FEWEST:
        return
    shared = class_folders(path / folders[0])
    if len(shared) < _FEWEST:
        return
    if any(
        class_folders(path / name) != shared or _has_samples(path / name, is_sample)
        for name in folders
    ):
        return
    raise DataError(
        f"{', '.join(map(repr, folders[:_LISTED]))} in {str(path)!r} hold the same "
        f"{len(shared)} folders, so they look like splits and not like classes, but their names "
        "do not say which is which.",
        hint="Name them train and val, or give one of them as PATH.",
    )


def _has_samples(folder: Path, is_sample: Callable[[str], bool]) -> bool:
    with os.scandir(folder) as entries:
        return any(is_sample(entry.name) and not entry.is_dir() for entry in entries)
