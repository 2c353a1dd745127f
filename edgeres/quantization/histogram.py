"""A histogram that grows its range by doubling and comes out the same in any order.

Bin edges are multiples of a power of two, so doubling the width merges neighbours exactly and the
final histogram depends only on the values, not on the order or the batches in which they came.
Exact zeros (half of all values behind a Relu) are counted apart: they are represented exactly.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from edgeres.calibrators.base import BINS

#: Narrowest bins, so that their inverse stays a float32. Only values below 1e-33, far below any
#: scale that is written, then lie in the lower half.
SMALLEST_EXPONENT = -120


class GrowingHistogram:
    """Counts of the values of one tensor.

    Attributes:
        exponent: Bins are ``2**exponent`` wide; ``None`` until a value other than zero came.
        counts: ``(2 * BINS,) int64``; bin ``i`` holds ``[(i - BINS) * w, (i - BINS + 1) * w)``.
        zeros: Number of exact zeros.
    """

    def __init__(self) -> None:
        self.exponent: int | None = None
        self.counts = np.zeros(2 * BINS, np.int64)
        self.zeros = 0

    def add(self, values: NDArray[np.float32], magnitude: float) -> None:
        """Counts values.

        Args:
            values: Any shape, float32, finite.
            magnitude: An upper bound of ``abs(values)``, so that it need not be found again.
        """
        flat = values.reshape(-1)
        if magnitude == 0.0:
            self.zeros += flat.size
            return
        self._grow(magnitude)
        assert self.exponent is not None
        scaled = flat * np.float32(2.0**-self.exponent)
        index = np.floor(scaled, out=scaled).astype(np.int32)
        index += BINS
        self.counts += np.bincount(index, minlength=2 * BINS)
        exact = flat.size - int(np.count_nonzero(flat))
        self.counts[BINS] -= exact
        self.zeros += exact

    @property
    def width(self) -> float:
        """Width of a bin; 0.0 while all values were zero."""
        return 0.0 if self.exponent is None else 2.0**self.exponent

    @property
    def total(self) -> int:
        """Number of values counted, zeros included."""
        return int(self.counts.sum()) + self.zeros

    def _grow(self, magnitude: float) -> None:
        # frexp: magnitude = m * 2**e with 0.5 <= m < 1, so magnitude < BINS * 2**(e - log2 BINS).
        # A negative value exactly at -2**e would still fit: floor gives bin 0.
        needed = math.frexp(magnitude)[1] - int(math.log2(BINS))
        needed = max(needed, SMALLEST_EXPONENT)
        if self.exponent is None:
            self.exponent = needed
            return
        while self.exponent < needed:
            merged = self.counts.reshape(BINS, 2).sum(axis=1)
            self.counts = np.zeros(2 * BINS, np.int64)
            self.counts[BINS // 2 : BINS // 2 + BINS] = merged
            self.exponent += 1
