"""What is right for samples of a set, whatever the task is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeres.data.preprocess import Preprocess
from edgeres.data.types import Dataset


def targets_of(
    dataset: Dataset, rows: NDArray[np.int64], preprocess: Preprocess
) -> Mapping[str, NDArray[Any]]:
    """Targets of some samples, by name.

    Args:
        dataset: The set.
        rows: Places in it, ``(N,)``.
        preprocess: How an image becomes numbers: a mask goes the same way.
    """
    return {"": dataset.labels[rows]}
