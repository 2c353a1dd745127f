"""Which images of a set are taken where a recipe asks for fewer than there are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeres.data.bad_images import BadImages
from edgeres.data.batches import batches
from edgeres.data.preprocess import Preprocess
from edgeres.data.types import Dataset
from edgeres.errors import DataError


def take(dataset: Dataset, samples: int | None) -> Dataset:
    """Takes images evenly over the classes: the same ones on every machine.

    The images are ordered by their rank within their class, so classes come in turn and the first
    ``samples`` are as balanced as the set allows; within a class the set's own order decides.

    Args:
        dataset: Images; where they have no labels the first ones are taken.
        samples: How many; ``None`` takes the whole set as it is.

    Raises:
        DataError: The set has fewer images than asked for.
    """
    if samples is None or samples == len(dataset):
        return dataset
    if samples > len(dataset):
        raise DataError(
            f"{dataset.name}: {samples} images were asked for, the set has {len(dataset)}.",
            hint="Ask for fewer, or give a larger set.",
        )
    return dataset.subset(_in_turn(dataset)[:samples])


def some_images(dataset: Dataset, preprocess: Preprocess, count: int) -> NDArray[np.float32] | None:
    """A few preprocessed images from the whole of a set, evenly spread.

    Args:
        dataset: Where they come from.
        preprocess: How an image becomes numbers.
        count: How many at most.

    Returns:
        ``(M, C, H, W) float32``, or ``(M, H, W, C)`` with layout ``nhwc``; ``None`` where they
        cannot be read or differ in size, which is told where all of them are needed.
    """
    places = np.unique(np.linspace(0, len(dataset) - 1, min(count, len(dataset))).astype(np.int64))
    skipped = BadImages(max_share=1.0)
    try:
        parts = [
            part for part, _ in batches(dataset, preprocess, count, indices=places, skipped=skipped)
        ]
    except DataError:
        return None
    return np.concatenate(parts) if parts else None


def take_held_out(dataset: Dataset, used: int | None, samples: int) -> Dataset:
    """Takes images that :func:`take` leaves out when it is asked for ``used``, likewise in turn.

    Args:
        dataset: Images.
        used: How many :func:`take` takes; ``None`` is the whole set.
        samples: How many to take behind them.

    Raises:
        DataError: Fewer are left.
    """
    remainder = 0 if used is None else len(dataset) - used
    if remainder < samples:
        raise DataError(
            f"{dataset.name}: {samples} held-out images were asked for, {max(remainder, 0)} of "
            f"{len(dataset)} are left.",
            hint="Calibrate with fewer images, hold out fewer, or give a larger set.",
        )
    return dataset.subset(_in_turn(dataset)[used:][:samples])


def _in_turn(dataset: Dataset) -> list[int]:
    """All indices with the classes in turn."""
    _, classes, counts = np.unique(dataset.labels, return_inverse=True, return_counts=True)
    by_class = np.argsort(classes, kind="stable")
    first = np.concatenate([[0], np.cumsum(counts)[:-1]])
    rank = np.empty(len(dataset), np.int64)
    rank[by_class] = np.arange(len(dataset)) - np.repeat(first, counts)
    return [int(index) for index in np.lexsort((classes, rank))]
