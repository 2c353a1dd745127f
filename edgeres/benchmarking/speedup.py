"""How many times faster one engine is than another, and how sure that is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeres.benchmarking.latency import Latency
from edgeres.errors import UsageError

_RESAMPLES = 2000


@dataclass(frozen=True)
class Speedup:
    """p50 of the baseline over p50 of the candidate, with a two-sided confidence interval."""

    value: float
    low: float
    high: float
    confidence: float

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values, with the field names of ``report.json``."""
        return {"speedup": self.value, "speedup_interval": [self.low, self.high]}


def speedup(
    baseline: Latency, candidate: Latency, *, confidence: float = 0.95, seed: int = 0
) -> Speedup:
    """Compares two engines that took turns in the same measurement.

    The interval is that of the median over rounds of the ratio within a round, so that what slowed
    a round cancels out: a bootstrap (B. Efron, Annals of Statistics 7, 1979) that draws rounds with
    replacement. Runs within a turn depend on each other and are not drawn singly. Where the ratio
    of the p50 lies outside, the interval is widened to hold it.

    Args:
        baseline: The slower one, one hopes.
        candidate: The other.
        confidence: Two-sided confidence of the interval.
        seed: Seed of the draws; equal measurements give equal intervals.

    Raises:
        UsageError: The two were not measured together, or a time is zero.
    """
    first = np.array(baseline.round_medians_ms)
    second = np.array(candidate.round_medians_ms)
    if len(first) != len(second) or len(first) == 0:
        raise UsageError(
            f"expected two engines measured in the same rounds, got {len(first)} and "
            f"{len(second)} rounds.",
            hint="Measure both in one call.",
        )
    if candidate.p50_ms <= 0 or second.min() <= 0:
        raise UsageError(
            "expected times above zero, got a run that took no time.",
            hint="The clock of this machine is too coarse for this engine; use a larger batch.",
        )
    value = baseline.p50_ms / candidate.p50_ms
    draws = np.random.default_rng(seed).integers(len(first), size=(_RESAMPLES, len(first)))
    ratios = np.median((first / second)[draws], axis=1)
    tail = 50 * (1 - confidence)
    low, high = np.percentile(ratios, [tail, 100 - tail])
    return Speedup(value, min(float(low), value), max(float(high), value), confidence)
