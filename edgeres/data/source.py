"""``open_dataset``: from the words after ``--data`` to a data set."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

from edgeres.data.fashion_mnist import TRAINING_FINGERPRINT, open_fashion_mnist
from edgeres.data.filelist import open_list
from edgeres.data.files import FileDataset
from edgeres.data.hashes import FileHashes
from edgeres.data.idx_source import open_idx
from edgeres.data.imagefolder import EXTENSIONS, open_imagefolder
from edgeres.data.npz import open_npz
from edgeres.data.python_set import open_python
from edgeres.data.sound import ENDINGS
from edgeres.data.tensors import open_tensors
from edgeres.data.types import Dataset, Split
from edgeres.errors import DataError, UsageError

FORMS = (
    "fashion-mnist, imagefolder:PATH, idx:IMAGES,LABELS, npz:PATH, list:FILE[,ROOT], "
    "tensors:PATH, python:FILE.py:FACTORY or audiofolder:PATH"
)
"""The forms of a data set, for help texts."""

_KINDS = ("fashion-mnist", "imagefolder", "idx", "npz", "list", "tensors", "python", "audiofolder")


def open_dataset(
    spec: str, *, split: Split, hashes: FileHashes | None = None, labels_needed: bool = True
) -> Dataset:
    """Opens a data set; nothing is decoded yet where the images are files.

    Args:
        spec: ``fashion-mnist``, ``imagefolder:PATH``, ``idx:IMAGES,LABELS``, ``npz:PATH``,
            ``list:FILE[,ROOT]``, ``tensors:PATH``, ``python:FILE.py:FACTORY`` or
            ``audiofolder:PATH``; a folder alone is an ``imagefolder``, or an ``audiofolder`` where
            sounds lie in it. A comma inside a path works wherever only one reading of the text
            names files that exist. ``~`` is the home folder.
        split: ``train``, ``validation`` or ``calibration``. A source that has no parts gives the
            same images for each; :func:`edgeres.data.overlap.find_overlap` notices.
        hashes: What is known of image files' content, for the fingerprint; asked of the files
            themselves where ``None``.
        labels_needed: Whether training and validation need labels or other targets; calibration
            goes without them.

    Raises:
        UsageError: The text has none of these forms.
        DataError: The files are missing, damaged, or the set is empty.
    """
    kind, colon, rest = spec.partition(":")
    if is_bare_path(spec) and _path(spec).is_dir():
        kind, colon, rest = folder_kind(_path(spec)), ":", spec
    if kind not in _KINDS:
        close = get_close_matches(kind, _KINDS, n=1)
        hint = f"Did you mean {close[0]!r}?" if close else ""
        raise UsageError(f"Expected a data set as {FORMS}, got {spec!r}.", hint=hint)
    if kind == "fashion-mnist" and colon:
        raise UsageError(f"Expected 'fashion-mnist' alone, got {spec!r}.")
    if kind != "fashion-mnist" and not rest:
        raise UsageError(f"Expected a path after '{kind}:', got {spec!r}.", hint=f"Forms: {FORMS}.")
    dataset = _open(kind, rest, split, labels_needed=labels_needed)
    if len(dataset) == 0:
        raise DataError(f"Expected images in the {split} split of {spec!r}, got an empty set.")
    if hashes is not None and isinstance(dataset, FileDataset):
        return replace(dataset, hashes=hashes)
    return dataset


def is_bare_path(spec: str) -> bool:
    """Whether a text names no kind of data set, so that it can only be the path of a folder."""
    return bool(spec) and spec.partition(":")[0] not in _KINDS


def folder_kind(path: Path) -> str:
    """What a folder holds: ``imagefolder``, or ``audiofolder`` where sounds lie in it alone.

    Raises:
        UsageError: Both images and sounds lie in it.
    """
    sounds = images = False
    for _, _, names in os.walk(path):
        sounds = sounds or any(name.lower().endswith(ENDINGS) for name in names)
        images = images or any(name.lower().endswith(EXTENSIONS) for name in names)
    if sounds and images:
        raise UsageError(
            f"{str(path)!r} holds images and sounds.",
            hint=f"Say imagefolder:{path} or audiofolder:{path}.",
        )
    return "audiofolder" if sounds else "imagefolder"


def _open(kind: str, rest: str, split: Split, *, labels_needed: bool) -> Dataset:
    openers: Mapping[str, Callable[[], Dataset]] = {
        "fashion-mnist": lambda: open_fashion_mnist(split),
        "imagefolder": lambda: open_imagefolder(_path(rest), split, labels_needed=labels_needed),
        "audiofolder": lambda: open_imagefolder(
            _path(rest), split, labels_needed=labels_needed, kind="audiofolder", endings=ENDINGS
        ),
        "idx": lambda: open_idx(*_pair(rest), split, labels_needed=labels_needed),
        "npz": lambda: open_npz(_path(rest), split, labels_needed=labels_needed),
        "list": lambda: open_list(*_pair(rest), split, labels_needed=labels_needed),
        "tensors": lambda: open_tensors(_path(rest), split),
        "python": lambda: open_python(rest, split),
    }
    return openers[kind]()


def training_fingerprint(spec: str, hashes: FileHashes | None = None) -> str:
    """Fingerprint of a training set; that of Fashion-MNIST is known without its images.

    Raises:
        UsageError: The text has none of the forms of a data set.
        DataError: The files are missing or damaged.
    """
    if spec == "fashion-mnist":
        return TRAINING_FINGERPRINT
    return open_dataset(spec, split="train", hashes=hashes, labels_needed=False).fingerprint


def _path(text: str) -> Path:
    """Path with the home folder filled in; an unknown user's ``~name`` stays as it is."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)


def _pair(text: str) -> tuple[Path, Path | None]:
    """Splits ``A,B`` or ``A`` where paths may contain commas.

    Of all ways to cut at one comma, the one whose two parts both exist is taken; else the whole
    text, if it exists; else the cut at the first comma, for the error to name.
    """
    commas = [place for place, letter in enumerate(text) if letter == ","]
    for place in commas:
        first, second = _path(text[:place]), _path(text[place + 1 :])
        if text[:place] and text[place + 1 :] and first.exists() and second.exists():
            return first, second
    if not commas or _path(text).exists():
        return _path(text), None
    first_text, _, second_text = text.partition(",")
    if not first_text or not second_text:
        raise UsageError(f"Expected two paths with a comma between them, got {text!r}.")
    return _path(first_text), _path(second_text)
