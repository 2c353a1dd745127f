"""How many times faster one engine is than another, and how sure that is."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeres.benchmarking.latency import Latency
from edgeres.errors import UsageError

_LEAST_ROUNDS = 10
_BISECTIONS = 60  # halves an angle of a right angle down to double precision


@dataclass(frozen=True)
class Speedup:
    """p50 of the baseline over p50 of the candidate, with a two-sided confidence interval."""

    value: float
    low: float
    high: float
    confidence: float

    def to_dict(self) -> dict[str, object]:
        """As plain JSON values, with the field names of ``report.json``."""
        return {"speedup": self.value, "speedup_interval": [self.low, self.high]}


def speedup(baseline: Latency, candidate: Latency, *, confidence: float = 0.95) -> Speedup:
    """Compares two engines that took turns in the same measurement.

    The interval is one for the middle over rounds of the ratio within a round, so that what slowed
    a round cancels out; runs within a turn depend on each other and count as one. From ten rounds
    on it lies between two order statistics of the ratios and so covers the median whatever their
    distribution (H. A. David and H. N. Nagaraja, "Order Statistics", 2003, section 7.1); a round in
    which only one engine was disturbed does not widen it. For fewer rounds it is Student's
    (Biometrika 6, 1908) for the mean of the ratios' logarithms, which is wide, as it has to be.
    Where the ratio of the p50 lies outside, the interval is widened to hold it.

    Args:
        baseline: The slower one, one hopes.
        candidate: The other.
        confidence: Two-sided confidence of the interval.

    Raises:
        UsageError: The two were not measured together, or a time is zero.
    """
    first = np.array(baseline.round_medians_ms)
    second = np.array(candidate.round_medians_ms)
    if len(first) != len(second) or len(first) < 2:
        raise UsageError(
            f"expected two engines measured in the same two or more rounds, got {len(first)} and "
            f"{len(second)} rounds.",
            hint="Measure both in one call.",
        )
    if candidate.p50_ms <= 0 or min(first.min(), second.min()) <= 0:
        raise UsageError(
            "expected times above zero, got a run that took no time.",
            hint="The clock of this machine is too coarse for this engine; use a larger batch.",
        )
    value = baseline.p50_ms / candidate.p50_ms
    ratios = np.sort(np.log(first / second))
    low, high = _median_bounds(ratios, confidence) or _mean_bounds(ratios, confidence)
    return Speedup(value, min(math.exp(low), value), max(math.exp(high), value), confidence)


def _median_bounds(ordered: NDArray[np.float64], confidence: float) -> tuple[float, float] | None:
    """Order statistics between which the median lies; ``None`` where there are too few."""
    count = len(ordered)
    if count < _LEAST_ROUNDS:
        return None
    tail, rank = 0.5**count, 0  # chance that the median lies below all of them
    while 2 * tail <= 1 - confidence:
        rank += 1
        tail += math.comb(count, rank) * 0.5**count
    return (float(ordered[rank - 1]), float(ordered[-rank])) if rank else None


def _mean_bounds(values: NDArray[np.float64], confidence: float) -> tuple[float, float]:
    count = len(values)
    half = student_quantile((1 + confidence) / 2, count - 1) * values.std(ddof=1) / math.sqrt(count)
    return float(values.mean() - half), float(values.mean() + half)


def student_quantile(probability: float, freedom: int) -> float:
    """Quantile of Student's t distribution, for devices without SciPy.

    With ``t = sqrt(freedom) tan(angle)`` the distribution is a finite sum of powers of the angle's
    cosine (M. Abramowitz and I. A. Stegun, "Handbook of Mathematical Functions", 26.7.3 and
    26.7.4), which is bisected.

    Args:
        probability: In (0.5, 1).
        freedom: Degrees of freedom, at least 1.
    """
    low, high = 0.0, math.pi / 2
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if _student_between(middle, freedom) < 2 * probability - 1:
            low = middle
        else:
            high = middle
    return math.sqrt(freedom) * math.tan(low)


def _student_between(angle: float, freedom: int) -> float:
    """Probability that t lies between the two values of ``sqrt(freedom) tan(+-angle)``."""
    cosine, sine = math.cos(angle), math.sin(angle)
    odd = freedom % 2
    term, total = (cosine, 0.0) if odd else (1.0, 0.0)
    for step in range((freedom - odd) // 2):
        total += term
        # 26.7.3 multiplies by 2/3, 4/5, ...; 26.7.4 by 1/2, 3/4, ...
        grown = (2 * step + 2) / (2 * step + 3) if odd else (2 * step + 1) / (2 * step + 2)
        term *= grown * cosine * cosine
    if odd:
        return 2 / math.pi * (angle + sine * total)
    return sine * total
