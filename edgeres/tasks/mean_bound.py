"""Confidence bound of a mean whose samples are mostly alike and rarely far off.

It inverts a score test, as Tango's bound of paired right and wrong answers does (Statistics in
Medicine 17, 1998): the variance against which a mean ``m`` is tested is that of the likeliest
distribution whose mean is ``m``. For numbers of any size the likeliest distribution is that of the
empirical likelihood (A. B. Owen, "Empirical likelihood", 2001, chapter 2), with one more value that
no sample showed and that costs nothing until it is needed: the largest that a sample could be. For
answers that are right or wrong the bound is Tango's to the last digits, and where no sample differs
it is ``z^2 / (n + z^2)`` of the largest, about the rule of three.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from edgeres.errors import UsageError

_BISECTIONS = 60
_FLAT = 1e12  # a tilt that changes no weight
_ROUNDING = 1e-9  # of the way to the largest value: where all are equal, the mean is not exact


def quantile(confidence: float) -> float:
    """The normal quantile of a one-sided confidence from 0.5 to below 1.

    Raises:
        UsageError: The confidence makes no sense.
    """
    if not 0.5 <= confidence < 1.0:
        raise UsageError(
            f"expected a confidence or power from 0.5 to below 1, got {confidence}.",
            hint="The usual confidence is 0.95.",
        )
    return NormalDist().inv_cdf(confidence)


def mean_upper(
    values: NDArray[np.float64], largest: float, confidence: float, effective: float
) -> float:
    """One-sided upper confidence bound of the mean.

    Args:
        values: ``(N,)``, finite.
        largest: What a sample could be at most; taken for the largest value where it is less.
        confidence: One-sided, from 0.5 to below 1.
        effective: Independent samples that the values are worth.

    Raises:
        UsageError: The confidence makes no sense.
    """
    z = quantile(confidence) / math.sqrt(effective)
    mean = float(values.mean())
    below = max(largest, float(values.max())) - values  # how far each is from the largest
    most = mean + float(below.mean())
    if most <= mean or z <= 0.0:
        return mean
    nearest = float(below.min())
    inverse = float((1 / below).mean()) if nearest > 0.0 else math.inf
    turn = most - 1 / inverse  # from this mean on, the unseen value has weight
    room = z * _unseen_spread(values, below, turn, most) + _ROUNDING * (most - mean)
    if turn - mean <= room:
        low, high = turn, most
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            if middle - mean > z * _unseen_spread(values, below, middle, most):
                high = middle
            else:
                low = middle
        return high
    scale = float(below.mean())
    small, large = math.log(scale / _FLAT), math.log(scale * _FLAT)
    high = most
    for _ in range(_BISECTIONS):
        middle = (small + large) / 2
        centre, spread = _tilted(values, below, math.exp(middle))
        if centre - mean > z * spread:
            small, high = middle, centre
        else:
            large = middle
    return high


def _tilted(
    values: NDArray[np.float64], below: NDArray[np.float64], tilt: float
) -> tuple[float, float]:
    """Mean and standard deviation under weights proportional to ``1 / (tilt + below)``."""
    weights = 1 / (tilt + below)
    weights /= weights.sum()
    centre = float(weights @ values)
    return centre, math.sqrt(float(weights @ np.square(values - centre)))


def _unseen_spread(
    values: NDArray[np.float64], below: NDArray[np.float64], centre: float, most: float
) -> float:
    """Standard deviation of the likeliest distribution with this mean that needs the unseen value.

    Each sample weighs ``(most - centre) / (n below)``, the unseen value the rest.
    """
    if below.min() <= 0.0:
        return 0.0
    weights = (most - centre) / (len(below) * below)
    rest = max(0.0, 1.0 - float(weights.sum()))
    seen = float(weights @ np.square(values - centre))
    return math.sqrt(seen + rest * (most - centre) ** 2)
