"""``imagefolder:PATH``: one folder a class, with torchvision's order of classes and files.

Classes are the subfolders in sorted order; a class has the image files at any depth below its
folder, ordered by folder, then by name. So labels agree with a network that was trained with
``torchvision.datasets.ImageFolder``.

Where the classes of a split lie, :mod:`edgeres.data.layout` says. ImageNet's validation images
need no class folders: :mod:`edgeres.data.imagenet` knows their classes. What programs leave behind
is no class and no image: hidden folders (``.ipynb_checkpoints``, ``.git``), ``__MACOSX`` and files
that begin with ``._`` are skipped, and so are files of endings that are not read;
:attr:`edgeres.data.files.FileDataset.skipped` says so. Calibration uses no labels, so for it alone
the images may lie in the folder itself, and one class is enough.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeres.data.files import FileDataset
from edgeres.data.imagenet import are_validation_images, find_truth
from edgeres.data.layout import class_folders, find_place, folders_in, left_behind
from edgeres.data.types import UNLABELLED, Split
from edgeres.errors import DataError

EXTENSIONS = (
    *(".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"),
    *(".jfif", ".jpe", ".gif", ".avif", ".heic", ".heif"),
)
"""Endings, in any case, of the files that count as images: torchvision's, then others."""


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
    place = find_place(path, split, lambda name: name.lower().endswith(endings))
    root = place.folder
    skipped = _Skipped(root, endings)
    skipped.names += [
        f"the folder {folder!r}" for folder in folders_in(root) if left_behind(folder)
    ]
    classes = class_folders(root)
    needed = labels_needed and split != "calibration"

    def made(
        paths: tuple[str, ...], labels: NDArray[np.int64], names: tuple[str, ...]
    ) -> FileDataset:
        told = "; ".join((*place.notes, *skipped.told()))
        return FileDataset(name, root, paths, labels, names, skipped=told)

    if not classes:
        paths = _images_below(root, root, skipped, endings)
        if needed and are_validation_images(paths):
            truth = find_truth(root, paths)
            return made(paths, np.array(truth.labels, np.int64), truth.class_names)
        if not needed and paths:
            return made(paths, np.full(len(paths), UNLABELLED, dtype=np.int64), ())
        if not needed:
            raise DataError(f"Expected images in {str(root)!r}, got none.", hint=_HINT)
        if paths:
            raise DataError(
                f"Expected one folder of images for each class in {str(root)!r}, got {len(paths)} "
                "images without one: nothing says their classes.",
                hint="Sort them into a folder for each class, name a table with a column of "
                "classes, list:FILE, or compare outputs without labels: --task outputs.",
            )
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
    return made(tuple(path for part in class_paths for path in part), labels, classes)


def files_below(folder: Path, endings: tuple[str, ...] = EXTENSIONS) -> tuple[str, ...]:
    """Paths, relative to ``folder``, of all files of these endings, at any depth, in order.

    Raises:
        DataError: It cannot be read.
    """
    return _images_below(folder, folder, _Skipped(folder, endings), endings)


class _Skipped:
    """What lies in a set and was taken for no part of it."""

    def __init__(self, root: Path, endings: tuple[str, ...]) -> None:
        self.names: list[str] = []
        self._start = len(str(root)) + 1
        self._endings = endings
        self._unread: Counter[str] = Counter()

    def saw(self, place: str, items: list[tuple[str, bool]]) -> list[tuple[str, bool]]:
        """Looks at names, and whether each is a folder; gives those that are the user's own."""
        own = [each for each in items if not left_behind(each[0])]
        if len(place) >= self._start and len(own) < len(items):
            for name, is_dir in items:
                if left_behind(name) and (is_dir or name.lower().endswith(self._endings)):
                    path = f"{place}{os.sep}{name}"[self._start :]
                    self.names.append(f"{'the folder ' if is_dir else ''}{path!r}")
        for name, is_dir in own:
            if not is_dir and not name.lower().endswith(self._endings):
                self._unread[os.path.splitext(name)[1].lower() or "no ending"] += 1  # noqa: PTH122
        return own

    def told(self) -> Iterator[str]:
        """In words; nothing where all was taken."""
        more = f" and {len(self.names) - _LISTED} more" if len(self.names) > _LISTED else ""
        if self.names:
            yield f"skipped {', '.join(self.names[:_LISTED])}{more}"
        if self._unread:
            kinds = ", ".join(
                f"{count} of {end}" for end, count in self._unread.most_common(_LISTED)
            )
            yield f"files of endings that are not read: {kinds}"


def _images_below(
    folder: Path, root: Path, skipped: _Skipped, endings: tuple[str, ...]
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
            items = skipped.saw(place, items)
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


_LISTED = 5
_HINT = (
    "Expected layout: PATH/CLASS/*.jpg, or PATH/train/CLASS/*.jpg and PATH/val/CLASS/*.jpg; "
    "sounds end in .wav or .flac."
)
