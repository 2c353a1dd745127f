"""The calibrator ``percentile``: the rarest large values are clipped."""

from __future__ import annotations

import numpy as np

from edgeres.calibrators.base import BINS, ChosenRange, Summary, range_of

#: Share of the values other than zero that is kept, in percent.
KEPT = 99.999


def choose(summary: Summary, *, kept: float | None = None) -> ChosenRange:
    """Keeps the given share of all values other than zero, half of the rest on each side.

    Zeros are exact in any range: counted, they would let a sparse tensor lose all of its values. A
    tensor that has no values on one side gives the whole rest to the other.

    Args:
        summary: Statistics of the tensor.
        kept: Share in percent; ``None`` takes :data:`KEPT`.
    """
    counts = summary.counts.astype(np.float64)
    rest = (1.0 - (KEPT if kept is None else kept) / 100.0) * counts.sum()
    if summary.low < 0.0 < summary.high:
        rest /= 2.0
    below = np.cumsum(counts)
    above = np.cumsum(counts[::-1])[::-1]
    low_bin = int(np.searchsorted(below, rest, side="right"))
    high_bin = int(np.searchsorted(-above, -rest, side="left")) - 1
    low = (low_bin - BINS) * summary.width
    high = (high_bin + 1 - BINS) * summary.width
    return range_of(max(low, summary.low), min(high, summary.high))
