"""``idx:IMAGES,LABELS``: a pair of IDX files, plain or gzip-compressed, as MNIST's."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgeres.data.arrays import ArrayDataset, check_class_numbers
from edgeres.data.idx import read_idx_images, read_idx_labels
from edgeres.data.types import UNLABELLED, Split
from edgeres.errors import UsageError


def open_idx(
    images: Path, labels: Path | None, split: Split, *, labels_needed: bool = True
) -> ArrayDataset:
    """Opens a pair of IDX files; the same pair serves every split.

    Args:
        images: ``(N, H, W)`` or ``(N, H, W, 3)`` unsigned bytes.
        labels: ``(N,)`` unsigned bytes; ``None`` is enough for calibration.
        split: Only decides whether labels are needed; ``calibration`` goes without.
        labels_needed: Whether the other splits need them.

    Raises:
        DataError: A file is missing, damaged or of another shape, or the counts differ.
        UsageError: No labels for a split that needs them.
    """
    if labels is None and labels_needed and split != "calibration":
        raise UsageError(
            f"Expected idx:IMAGES,LABELS for the {split} split, got no labels.",
            hint="Only calibration goes without labels.",
        )
    pixels = read_idx_images(images)
    if labels is None:
        unknown = np.full(len(pixels), UNLABELLED, dtype=np.int64)
        return ArrayDataset(f"idx/{split}", pixels, unknown)
    classes = read_idx_labels(labels)
    check_class_numbers(classes)
    return ArrayDataset(f"idx/{split}", pixels, classes)
