"""Halfway between the range of least squared error and all that was seen, in factors.

Rare large values cost the network's output more than their squares say: what is clipped errs in one
direction, in one place and in the images that are far from the others, where rounding averages out.
All that was seen, on the other hand, coarsens every image for the sake of one.
"""

from __future__ import annotations

import math

import numpy as np

from edgeres.calibrators import minmax, mse
from edgeres.calibrators.base import ChosenRange, Summary


def choose(summary: Summary) -> ChosenRange:
    """Chooses the range of a tensor."""
    least, whole = mse.choose(summary), minmax.choose(summary)
    return ChosenRange(
        low=0.0 - _between(-least.low, -whole.low),
        high=_between(least.high, whole.high),
        magnitude=_between(least.magnitude, whole.magnitude),
    )


def _between(one: float, other: float) -> float:
    """Geometric mean of two ends, neither below zero, as float32 like them."""
    return float(np.float32(math.sqrt(one * other)))
