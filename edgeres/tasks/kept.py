"""The part of an output that is kept of each sample, to be compared with another model's."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

OUTPUT = "output:"
"""In front of an output's name among the rows of a sample."""
SAME = "input:same"
"""Name among the rows of numbers that are equal for samples that show the same input; it is there
while two models are judged, where inputs are known again."""
MOST = 4096
"""Numbers of one output that are kept of one sample; larger outputs are sampled."""


def kept(output: NDArray[Any]) -> NDArray[np.float32]:
    """Numbers of an output, all of them where there are not more than :data:`MOST`.

    Which ones are kept of a larger output depends on its size alone, so that two models of one
    network keep the same.

    Args:
        output: ``(N, ...)``.

    Returns:
        ``(N, D) float32`` with D at most :data:`MOST`.
    """
    flat = output.reshape(len(output), -1)
    if flat.shape[1] > MOST:
        places = np.random.default_rng(flat.shape[1]).choice(flat.shape[1], MOST, replace=False)
        flat = flat[:, np.sort(places)]
    return np.ascontiguousarray(flat, dtype=np.float32)
