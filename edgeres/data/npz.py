"""``npz:PATH``: images and labels as arrays in one NumPy archive.

Keys: ``images`` and ``labels``, or one pair for each split named like MedMNIST's (``train_images``,
``val_labels``) or like Keras's (``x_train``, ``y_test``). ``class_names`` (strings) is optional.
Images are ``(N, H, W)`` or ``(N, H, W, C)`` uint8 (C: 1 grey, 3 RGB, or as many as the network
takes), labels ``(N,)`` or ``(N, 1)`` of any integer type; calibration needs no labels.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeres.data.arrays import ArrayDataset, check_class_numbers
from edgeres.data.npy import ARRAY_ERRORS, read_member
from edgeres.data.types import SPLIT_NAMES, UNLABELLED, Split
from edgeres.errors import DataError
from edgeres.system.plain_files import refuse_special


def open_npz(path: Path, split: Split, *, labels_needed: bool = True) -> ArrayDataset:
    """Opens a NumPy archive; without ``labels_needed`` every split may go without labels.

    Raises:
        DataError: Not an archive, damaged, keys missing, a dtype or shape that is not that of
            images and labels, or Python objects inside.
    """
    refuse_special(path, DataError)
    try:
        with zipfile.ZipFile(path) as archive:
            return _open(archive, path, split, needed=labels_needed and split != "calibration")
    except ARRAY_ERRORS as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise DataError(
            f"Expected a NumPy archive at {str(path)!r}, got: {reason}.",
            hint="Write it with numpy.savez_compressed(path, images=..., labels=...).",
        ) from error


def _open(archive: zipfile.ZipFile, path: Path, split: Split, *, needed: bool) -> ArrayDataset:
    members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    pairs = [("images", "labels")]
    for prefix in SPLIT_NAMES[split]:
        pairs += [(f"{prefix}_images", f"{prefix}_labels"), (f"x_{prefix}", f"y_{prefix}")]
    present = [pair for pair in pairs if pair[0] in members]
    if not present:
        keys = ", ".join(map(repr, sorted(members)[:20])) or "none"
        raise DataError(
            f"Expected images under {' or '.join(repr(key) for key, _ in pairs)} in "
            f"{str(path)!r}, got the keys {keys}.",
            hint="Write it with numpy.savez_compressed(path, images=..., labels=...).",
        )
    image_key, label_key = present[0]
    images = read_member(archive, members[image_key], path)
    if images.ndim == 4 and images.shape[3] == 1:
        images = images[..., 0]
    if label_key in members:
        labels = _labels(read_member(archive, members[label_key], path), label_key, path)
    elif not needed:
        labels = np.full(images.shape[:1], UNLABELLED, dtype=np.int64)
    else:
        raise DataError(
            f"Expected labels under {label_key!r} in {str(path)!r}, got none.",
            hint="Only calibration goes without labels.",
        )
    class_names: tuple[str, ...] = ()
    if "class_names" in members:
        class_names = tuple(map(str, read_member(archive, members["class_names"], path).ravel()))
    else:
        check_class_numbers(labels)
    return ArrayDataset(f"npz/{split}", images, labels, class_names)


def _labels(labels: NDArray[Any], key: str, path: Path) -> NDArray[np.int64]:
    """Checks and flattens labels."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataError(
            f"Expected labels (N,) of an integer type under {key!r} in {str(path)!r}, got shape "
            f"{labels.shape} {labels.dtype}.",
            hint="One class number for each image.",
        )
    return labels.astype(np.int64)
