"""What samples are worth of which some show the same image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def effective_samples(groups: NDArray[np.int64]) -> float:
    """Independent samples that a set is worth whose groups answer as one.

    ``N^2 / sum(m^2)`` over the groups' sizes ``m`` (L. Kish, "Survey Sampling", 1965): the number
    of different images where all are repeated equally often, and fewer where a few of them make up
    most of the set. The variance of a mean over ``N`` samples is never above that of this many
    independent ones.

    Args:
        groups: ``(N,)``: the same number means the same image.
    """
    sizes = np.unique(groups, return_counts=True)[1].astype(np.float64)
    return float(sizes.sum() ** 2 / np.square(sizes).sum())
