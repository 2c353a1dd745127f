"""Checks of a whole data set before a stage begins: classes, and what calibration needs."""

from __future__ import annotations

import numpy as np

from edgeres.data.types import Dataset
from edgeres.errors import DataError


def check_classes(dataset: Dataset, num_classes: int, *, is_part: bool = False) -> None:
    """Checks that the labels are those of a network with this many outputs.

    Call it on the whole set, before a subset is taken: a small subset may lack classes rightly.

    Args:
        dataset: A labelled set.
        num_classes: Length of the network's output.
        is_part: Whether the set is known to show some of the classes alone.

    Raises:
        DataError: No images, images without labels, another class count (both are named), a label
            out of range, a class without images, or only one class.
    """
    if len(dataset) == 0:
        raise DataError(f"Expected images in {dataset.name}, got none.")
    lowest, highest = int(dataset.labels.min()), int(dataset.labels.max())
    if lowest < 0:
        raise DataError(
            f"Expected a class from 0 on for every image of {dataset.name}, got {lowest} for "
            f"{dataset.image_name(int(dataset.labels.argmin()))}.",
            hint="Accuracy needs labels; only calibration goes without.",
        )
    if lowest == 1 and highest == num_classes:
        raise DataError(
            f"The labels of {dataset.name} count from 1: they go from 1 to {num_classes}, the "
            f"model's classes from 0 to {num_classes - 1}.",
            hint="Take 1 from every label.",
        )
    classes = len(dataset.class_names)
    if (classes and classes != num_classes) or highest >= num_classes:
        raise DataError(
            f"Expected {num_classes} classes, as the model has, got {max(classes, highest + 1)} "
            f"in {dataset.name}.",
            hint="Give the data set that the model was trained for, or list:FILE for a part of it."
            + (" Its labels start at 1; they must count from 0." if lowest == 1 else ""),
        )
    counts = np.bincount(dataset.labels, minlength=num_classes)
    if np.count_nonzero(counts) < 2:
        raise DataError(
            f"Expected images of at least two classes in {dataset.name}, got only class {highest}."
        )
    if classes and not counts.all() and not is_part:
        empty = np.flatnonzero(counts == 0)
        names = ", ".join(repr(dataset.class_names[label]) for label in empty[:10])
        raise DataError(
            f"Expected images of every class in {dataset.name}, got none of {len(empty)} of "
            f"{num_classes}: {names}.",
            hint="Add images of these classes, or give list:FILE for a part of the data set.",
        )


def check_calibration(dataset: Dataset) -> None:
    """Checks that a set can calibrate: at least two images, and not all of them the same.

    Images are decoded in order until one differs from the first, which mostly takes two. Bad ones
    are passed over; whoever reads the batches counts them.

    Raises:
        DataError: No image, one image, or the same pixels in every image.
    """
    hint = "Give a few hundred images of the kind that the network will see."
    if len(dataset) < 2:
        raise DataError(
            f"Expected at least 2 images to calibrate with in {dataset.name}, got {len(dataset)}.",
            hint=hint,
        )
    first: bytes | None = None
    for index in range(len(dataset)):
        try:
            image = dataset.image(index)
        except DataError:
            continue
        content = repr((image.mode, image.size)).encode() + image.tobytes()
        if first is not None and content != first:
            return
        first = content
    raise DataError(
        f"Expected different images to calibrate with in {dataset.name}, got {len(dataset)} times "
        "the same pixels, or none that can be decoded.",
        hint=hint,
    )
