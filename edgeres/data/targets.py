"""What is right for the samples of a data set, by name: class numbers, or whatever else it has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from edgeres.data.types import UNLABELLED

if TYPE_CHECKING:
    from edgeres.data.preprocess import Preprocess
    from edgeres.data.types import Dataset

Targets = Mapping[str, NDArray[Any]]
"""Arrays ``(N, ...)`` by name. A set with one target has it under ``""``, one with several has each
under its own name: the column, the key or the head."""

IGNORED = 255
"""Number in a mask of pixels that nobody judges, and of what resizing adds around an image."""


@runtime_checkable
class HasTargets(Protocol):
    """A data set whose targets are not just its ``labels``.

    Its ``labels`` are the class numbers of a target that has them, or :data:`UNLABELLED` where
    there is none.
    """

    @property
    def target_names(self) -> tuple[str, ...]:
        """What the targets are called where they come from; empty where nobody has said any."""
        ...

    def targets(self, rows: NDArray[np.int64], preprocess: Preprocess) -> Targets:
        """What is right for the samples at these rows; see :func:`targets_of`."""
        ...


def targets_of(dataset: Dataset, rows: NDArray[np.int64], preprocess: Preprocess) -> Targets:
    """What is right for some samples.

    Args:
        dataset: The set.
        rows: ``(n,)`` rows of it, in the order that is wanted.
        preprocess: How its images become numbers: a mask is resized and cropped as they are.

    Returns:
        Class numbers ``(n,) int64`` under ``""`` for sets of images with labels. Otherwise what the
        set has: numbers ``(n,)`` or ``(n, K)`` float64, several labels ``(n, K)`` int64 of 0 and 1,
        masks ``(n, H, W)`` int32 with :data:`IGNORED`. Empty where nobody has said what is right.

    Raises:
        DataError: A mask is missing, damaged or of another size than its image.
    """
    if isinstance(dataset, HasTargets):
        return dataset.targets(rows, preprocess)
    labels = dataset.labels
    return {} if (labels == UNLABELLED).all() else {"": labels[rows]}


def target_names(dataset: Dataset) -> tuple[str, ...]:
    """What the targets of a set are called where they come from: ``("",)`` for class labels."""
    if isinstance(dataset, HasTargets):
        return dataset.target_names
    return () if (dataset.labels == UNLABELLED).all() else ("",)


def by_name(targets: Mapping[str, NDArray[Any]]) -> Targets:
    """The same targets under the names that :func:`targets_of` gives them: one alone has ``""``."""
    return {"": next(iter(targets.values()))} if len(targets) == 1 else targets
