"""``list:FILE[,ROOT]``: image files named line by line, as MLPerf's lists are.

Each line is ``path label`` (MLPerf's ``val_map.txt``), or in every line only ``path`` (MLPerf's
``cal_image_list_option_1.txt``: the names of 500 ImageNet validation images), which is enough for
calibration. The label is the last word and a whole number, so a path may contain blanks. Empty
lines count for nothing; UTF-8, and bytes that are not UTF-8 stand for themselves. Paths are
relative to ROOT, which is the list's own folder where it is not given.

A list whose first line is a header may say more of an image than its class: a number, several
labels, a mask. See :mod:`edgeres.data.table`. Lines such as ``cat.jpg,2`` or ``cat.jpg;cat`` are a
table of files and classes without a header.

Where FILE is a folder, it is ROOT, and the split decides which list in it is read: ``train.txt``;
``val.txt``, ``validation.txt``, ``test.txt`` or ``val_map.txt``; ``calibration.txt`` or
``train.txt``; likewise with ``.csv`` and ``.tsv``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeres.data.files import FileDataset
from edgeres.data.imagefolder import EXTENSIONS
from edgeres.data.table import Table, is_table, parse_table, with_header
from edgeres.data.target_files import TargetFiles
from edgeres.data.types import UNLABELLED, Split
from edgeres.errors import DataError
from edgeres.system.plain_files import refuse_special

MAX_LIST_BYTES = 256_000_000
"""Largest list that is read, in bytes."""

SPLIT_LISTS: dict[Split, tuple[str, ...]] = {
    "train": ("train.txt", "train.csv", "train.tsv"),
    "validation": (
        *("val.txt", "validation.txt", "test.txt", "val_map.txt"),
        *("val.csv", "validation.csv", "test.csv", "val.tsv", "validation.tsv", "test.tsv"),
    ),
    "calibration": (
        *("calibration.txt", "calibration.csv", "calibration.tsv"),
        *("train.txt", "train.csv", "train.tsv"),
    ),
}
"""Names of a split's list in a folder, the first that exists is taken."""

_LABELLED = re.compile(r"(?P<path>.*[^ \t])[ \t]+(?P<label>[0-9]{1,9})")


@dataclass(frozen=True)
class FileList:
    """A parsed list: one path for each image; ``labels`` is ``None`` where the list has none."""

    paths: tuple[str, ...]
    labels: NDArray[np.int64] | None


def parse_list(text: str, name: str = "list") -> FileList:
    """Parses a list of image files; ``name`` is for errors.

    Labels count only where every line has one: otherwise the number belongs to a file name.

    Raises:
        DataError: No line, a path that is listed twice, or labels on most lines but not on all.
    """
    lines = [(number, line.strip(" \t\r")) for number, line in enumerate(text.split("\n"), 1)]
    lines = [(number, line) for number, line in lines if line]
    if not lines:
        raise DataError(f"Expected image files in {name!r}, got an empty list.")
    matches = [_LABELLED.fullmatch(line) for _, line in lines]
    labelled = [match for match in matches if match is not None]
    if len(labelled) == len(lines):
        paths = tuple(match["path"] for match in labelled)
        labels = np.array([int(match["label"]) for match in labelled], dtype=np.int64)
    elif 2 * len(labelled) > len(lines):
        number, line = lines[matches.index(None)]
        raise DataError(
            f"Expected 'path label' in line {number} of {name!r} as in {len(labelled)} others, "
            f"got {line[:120]!r}.",
            hint="Give every line a label, or none.",
        )
    else:
        paths, labels = tuple(line for _, line in lines), None
    first: dict[str, int] = {}
    for (number, _), path in zip(lines, paths, strict=True):
        if first.setdefault(path, number) != number:
            raise DataError(
                f"Expected each file once in {name!r}, got {path!r} in lines {first[path]} and "
                f"{number}.",
                hint="Take one of the lines out.",
            )
    return FileList(paths, labels)


def open_list(
    path: Path, root: Path | None, split: Split, *, labels_needed: bool = True
) -> FileDataset:
    """Opens a list of image files.

    Args:
        path: The list, or a folder with one list for each split.
        root: Folder that the listed paths are relative to; by default the list's own.
        split: Which list of a folder; ``calibration`` goes without labels.
        labels_needed: Whether the other splits need labels or other targets.

    Raises:
        DataError: The list or a listed file is missing, the list does not parse, or it has no
            labels and the split needs them.
    """
    if path.is_dir():
        folder = path
        path = next((folder / n for n in SPLIT_LISTS[split] if (folder / n).is_file()), folder)
        if path == folder:
            raise DataError(
                f"Expected {' or '.join(SPLIT_LISTS[split])} for the {split} split in "
                f"{str(folder)!r}, got none.",
                hint="Name the list so, or give the list itself.",
            )
    text = with_header(_read(path))
    needed = labels_needed and split != "calibration"
    if is_table(text):
        return _open_table(parse_table(text, str(path)), path, root, split, needed=needed)
    parsed = parse_list(text, str(path))
    if parsed.labels is None and needed:
        raise DataError(
            f"Expected 'path label' in the lines of {str(path)!r} for the {split} split, got only "
            f"paths, e.g. {parsed.paths[0]!r}.",
            hint="Only calibration goes without labels.",
        )
    folder = path.parent if root is None else root
    _check_files(parsed.paths, path, folder)
    labels = parsed.labels
    if labels is None:
        labels = np.full(len(parsed.paths), UNLABELLED, dtype=np.int64)
    return FileDataset(f"list/{split}", folder, parsed.paths, labels)


def _open_table(
    table: Table, path: Path, root: Path | None, split: Split, *, needed: bool
) -> TargetFiles:
    if needed and not table.columns:
        raise DataError(
            f"Expected a column with what is right in {str(path)!r} for the {split} split, got "
            f"only files{' and ' if table.skipped else ''}"
            f"{', '.join(map(repr, table.skipped))}.",
            hint="Only calibration goes without: add a column such as label, mask or a number.",
        )
    folder = path.parent if root is None else root
    paths = _with_endings(table.paths, folder)
    _check_files(paths, path, folder)
    _check_files(table.masks, path, folder)
    left_out = ", ".join(map(repr, table.skipped))
    return TargetFiles(
        f"list/{split}",
        folder,
        paths,
        table.labels,
        table.class_names,
        skipped=f"columns that hold no numbers were left out: {left_out}" if left_out else "",
        values=table.values,
        masks=table.masks,
        columns=tuple(table.columns),
    )


def _with_endings(names: tuple[str, ...], folder: Path) -> tuple[str, ...]:
    """The names with the ending of the image that there is, where a table leaves it out."""
    if not names or _exists(folder / names[0]):
        return names
    return tuple(
        next((name + end for end in EXTENSIONS if _exists(folder / (name + end))), name)
        for name in names
    )


def _check_files(names: Sequence[str], path: Path, folder: Path) -> None:
    missing = [name for name in names if not _exists(folder / name)]
    if missing:
        raise DataError(
            f"Expected all {len(names)} files of {str(path)!r} in {str(folder)!r}, got "
            f"{len(missing)} missing, e.g. {missing[0]!r}.",
            hint="Give the folder of the images: list:FILE,ROOT.",
        )


def _read(path: Path) -> str:
    """Reads a list of bounded size."""
    refuse_special(path, DataError)
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_LIST_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(
            f"Expected a list of image files at {str(path)!r}, got: {reason}.",
            hint="Each line is 'path label', or only 'path' for calibration.",
        ) from error
    zero = b"\0" in data
    if zero or len(data) > MAX_LIST_BYTES:
        raise DataError(
            f"Expected a text of at most {MAX_LIST_BYTES:,} bytes at {str(path)!r}, got "
            f"{'zero bytes in it' if zero else 'more'}.",
            hint="Each line is 'path label', or only 'path' for calibration.",
        )
    return data.decode("utf-8-sig", errors="surrogateescape")


def _exists(path: Path) -> bool:
    try:
        path.stat()
    except (OSError, ValueError):
        return False
    return True
