"""``imagefolder:PATH``: one folder a class, with torchvision's order of classes and files.

Classes are the subfolders in sorted order; a class has the image files at any depth below its
folder, ordered by folder, then by name. So labels agree with a network that was trained with
``torchvision.datasets.ImageFolder``.

Where every subfolder of PATH has the name of a split, the classes are looked for inside them::

    PATH/train/CLASS/*.jpg            split train; calibration, if it has no folder of its own
    PATH/val/CLASS/*.jpg              split validation (also: validation, test; the first there is)
    PATH/calibration/[CLASS/]*.jpg    split calibration

otherwise PATH itself serves every split. What programs leave behind is no class and no image:
hidden folders (``.ipynb_checkpoints``, ``.git``), ``__MACOSX`` and files that begin with ``._`` are
skipped, and :attr:`edgeres.data.files.FileDataset.skipped` says so. Calibration uses no labels, so
for it alone the images may lie in the folder itself, and one class is enough.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from edgeres.data.files import FileDataset
from edgeres.data.types import SPLIT_NAMES, UNLABELLED, Split
from edgeres.errors import DataError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Endings, in any case, of the files that count as images; torchvision's list."""

_SPLITS = frozenset(name for names in SPLIT_NAMES.values() for name in names)


def open_imagefolder(
    path: Path,
    split: Split,
    *,
    labels_needed: bool = True,
    kind: str = "imagefolder",
    endings: tuple[str, ...] = EXTENSIONS,
) -> FileDataset:
    """Opens a folder of class folders.

    Args:
        path: The folder.
        split: Which part of it.
        labels_needed: Whether training and validation need classes.
        kind: For the name of the set.
        endings: Of the files that count.

    Raises:
        DataError: No such folder, no folder for this split, no classes, only one class, or a class
            without images.
    """
    name = f"{kind}/{split}"
    root = _split_folder(path, split)
    skipped = [f"the folder {folder!r}" for folder in _folders(root) if _left_behind(folder)]
    classes = _subfolders(root)
    needed = labels_needed and split != "calibration"
    if not needed and not classes:
        paths = _images_below(root, root, skipped, endings)
        if not paths:
            raise DataError(f"Expected images in {str(root)!r}, got none.", hint=_HINT)
        unknown = np.full(len(paths), UNLABELLED, dtype=np.int64)
        return FileDataset(name, root, paths, unknown, skipped=_told(skipped))
    class_paths = [_images_below(root / folder, root, skipped, endings) for folder in classes]
    empty = [folder for folder, paths in zip(classes, class_paths, strict=True) if not paths]
    if not any(class_paths):
        raise DataError(
            f"Expected one folder of images for each class in {str(root)!r}, got "
            f"{len(classes)} folders and no image.",
            hint=_HINT,
        )
    if needed and empty:
        raise DataError(
            f"Expected images in every class of {str(root)!r}, got none in {len(empty)} of "
            f"{len(classes)}: {', '.join(map(repr, empty[:10]))}.",
            hint="Add images, or take the folder away and train without the class.",
        )
    if needed and len(classes) < 2:
        raise DataError(
            f"Expected at least two class folders in {str(root)!r}, got only {classes[0]!r}.",
            hint=_HINT,
        )
    labels = np.repeat(
        np.arange(len(classes), dtype=np.int64), [len(paths) for paths in class_paths]
    )
    paths = tuple(path for part in class_paths for path in part)
    return FileDataset(name, root, paths, labels, classes, skipped=_told(skipped))


def _left_behind(name: str) -> bool:
    """Whether a folder or a file is no part of the data set by its name."""
    return name.startswith(".") or name in ("__MACOSX", "_background_noise_")


def _told(skipped: list[str]) -> str:
    """What was skipped, in words."""
    more = f" and {len(skipped) - _LISTED} more" if len(skipped) > _LISTED else ""
    return f"skipped {', '.join(skipped[:_LISTED])}{more}" if skipped else ""


def _split_folder(path: Path, split: Split) -> Path:
    """The folder that holds the classes of a split."""
    folders = _subfolders(path)
    if not folders or not _SPLITS.issuperset(folders):
        return path
    for name in SPLIT_NAMES[split]:
        if name in folders:
            return path / name
    raise DataError(
        f"Expected a folder {' or '.join(map(repr, SPLIT_NAMES[split]))} for the {split} split "
        f"in {str(path)!r}, got {', '.join(map(repr, folders))}.",
        hint="Name the folder so, or give the class folders' parent as PATH.",
    )


def _subfolders(path: Path) -> tuple[str, ...]:
    """Names of the folders in ``path`` that can be classes or splits, sorted."""
    return tuple(name for name in _folders(path) if not _left_behind(name))


def _folders(path: Path) -> tuple[str, ...]:
    """Names of the folders in ``path``, sorted; links to folders count."""
    try:
        with os.scandir(path) as entries:
            return tuple(sorted(entry.name for entry in entries if entry.is_dir()))
    except (OSError, ValueError) as error:
        raise DataError(
            f"Expected a folder of images at {str(path)!r}, got: "
            f"{getattr(error, 'strerror', None) or error}.",
            hint=_HINT,
        ) from error


def _images_below(
    folder: Path, root: Path, skipped: list[str], endings: tuple[str, ...]
) -> tuple[str, ...]:
    """Paths, relative to ``root``, of the files that count at any depth, in torchvision's order.

    Links to folders are followed, but never into a folder that is being walked already: a loop of
    links ends there instead of repeating its images some forty times, up to the system's limit.
    What programs left behind is added to ``skipped``.
    """
    folders: list[tuple[str, list[str]]] = []
    waiting: list[tuple[str, frozenset[tuple[int, int]]]] = [(str(folder), frozenset())]
    try:
        while waiting:
            place, above = waiting.pop()
            status = Path(place).stat()
            identity = (status.st_dev, status.st_ino)
            if identity in above:
                continue
            with os.scandir(place) as entries:
                items = sorted((entry.name, entry.is_dir()) for entry in entries)
            user_items = [each for each in items if not _left_behind(each[0])]
            if place != str(root) and len(user_items) < len(items):
                skipped += _named(place, items, len(str(root)) + 1)
            items = user_items
            names = [name for name, is_dir in items if not is_dir]
            folders.append((place, [name for name in names if name.lower().endswith(endings)]))
            inside = above | {identity}
            waiting += [(f"{place}{os.sep}{name}", inside) for name, is_dir in items if is_dir]
    except OSError as error:
        raise DataError(
            f"Expected a readable folder at {str(error.filename or folder)!r}, got: "
            f"{error.strerror or error}.",
            hint="Check its permissions.",
        ) from error
    start = len(str(root)) + len(os.sep) if str(root) != os.sep else 1
    return tuple(
        f"{place}{os.sep}{name}"[start:] for place, names in sorted(folders) for name in names
    )


def _named(place: str, items: list[tuple[str, bool]], start: int) -> Iterator[str]:
    """Folders and image files in a class that are skipped; other hidden files are none anyway."""
    for name, is_dir in items:
        if _left_behind(name) and (is_dir or name.lower().endswith(EXTENSIONS)):
            yield f"{'the folder ' if is_dir else ''}{f'{place}{os.sep}{name}'[start:]!r}"


_LISTED = 5
_HINT = (
    "Expected layout: PATH/CLASS/*.jpg, or PATH/train/CLASS/*.jpg and PATH/val/CLASS/*.jpg; "
    "sounds end in .wav or .flac."
)
