"""Sets training images aside for choosing the epoch, so that the test set does not."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeres.errors import DataError


def split_held_out(
    labels: NDArray[np.int64], count: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Splits indices into training and held-out ones, each class alike.

    Every class gives ``count // classes`` images; the first ``count % classes`` classes give one
    more. Both parts come back in rising order.

    Args:
        labels: ``(N,)`` class of every image.
        count: Held-out images.
        seed: Same seed, same split.

    Returns:
        ``(training, held_out)`` indices, int64.

    Raises:
        DataError: A class has too few images to give its part and keep at least one.
    """
    classes = np.unique(labels)
    generator = np.random.default_rng(seed)
    chosen: list[NDArray[np.int64]] = []
    for place, label in enumerate(classes):
        members = np.flatnonzero(labels == label)
        share = count // len(classes) + (1 if place < count % len(classes) else 0)
        if share >= len(members):
            raise DataError(
                f"Class {label} has {len(members)} training images; {share} of them cannot be "
                "held out.",
                hint=f"Hold out fewer than {count} images, or bring more.",
            )
        chosen.append(generator.permutation(members)[:share])
    held_out = np.sort(np.concatenate(chosen)) if chosen else np.empty(0, np.int64)
    training = np.setdiff1d(np.arange(len(labels)), held_out)
    return training.astype(np.int64), held_out.astype(np.int64)
