"""Learned rounding: the integers of a layer chosen together, for the least error of its output.

Rounding every weight to the nearest integer is best for each weight alone. The output errors of the
weights of a channel add up, though, and errors that cancel are better than small ones (Nagel et
al., AdaRound, arXiv 2004.10568). For one output channel with errors ``e`` (in units of its scale)
the squared output error is ``e^T H e``, ``H`` being the covariance or second moment of the input.
AdaRound minimizes it by gradient descent on a relaxation; here integers are searched directly:

1. columns are rounded one after the other, the error of each handed on to the columns that come
   after it (Frantar et al., GPTQ, arXiv 2210.17323, equations 2 and 3);
2. each integer in turn is moved to where the objective is least with all others held (coordinate
   descent); where a pair may saturate, its two weights may also trade;
3. a row that is not better than nearest rounding, moved pairs included, keeps nearest rounding.

Everything is exact in its objective and takes no random numbers. No step leaves the saturation
rule: an integer moves only between bounds that its partners leave.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeres.quantization.pairing import Pairs
from edgeres.quantization.saturation import PAIR_LIMIT
from edgeres.quantization.scales import WEIGHT_LEVELS

Matrix = NDArray[np.float64]

#: Share of the mean energy that is added to every weight's own, so that directions that the
#: images do not show stay near nearest rounding (GPTQ adds as much).
_DAMPING = 0.01
#: Columns worked on at once; their effect on the others follows as one matrix product.
_BLOCK = 64
_SWEEPS = 4


@dataclass(frozen=True)
class Rounding:
    """Integers of one layer or group and what they cost.

    Attributes:
        whole: ``(M, K) float64`` integers.
        before: ``(M,)`` objective of the start.
        after: ``(M,)`` objective of ``whole``; nowhere greater.
    """

    whole: Matrix
    before: Matrix
    after: Matrix


def learn_rounding(
    start: Matrix,
    exact: Matrix,
    hessian: Matrix,
    packings: Sequence[Pairs] = (),
    *,
    sweeps: int = _SWEEPS,
) -> Rounding:
    """Chooses the integers of all rows of a weight matrix.

    Args:
        start: ``(M, K)`` integers that obey the saturation rule under ``packings``.
        exact: ``(M, K)`` weights divided by their scales.
        hessian: ``(K, K)`` symmetric, positive semidefinite.
        packings: Pairs that must be saturation-safe; none where nothing saturates.
        sweeps: Rounds of coordinate descent, at most.
    """
    damped = _damped(hessian)
    order = _pairs_together(exact.shape[1], packings)
    problem = _Problem(
        exact[:, order], np.ascontiguousarray(damped[np.ix_(order, order)]), order, packings
    )
    nearest = start[:, order].astype(np.float64)
    before = problem.objective(nearest)
    best, after = nearest, before
    for first in (problem.handed_on(nearest), nearest):
        whole = problem.descend(first, sweeps)
        found = problem.objective(whole)
        better = found < after
        best = np.where(better[:, None], whole, best)
        after = np.where(better, found, after)
    whole = np.empty_like(best)
    whole[:, order] = best
    return Rounding(whole, before, after)


def _damped(hessian: Matrix) -> Matrix:
    energy = float(np.trace(hessian)) / len(hessian)
    damped = hessian.astype(np.float64, copy=True)
    damped[np.diag_indices(len(damped))] += _DAMPING * energy if energy > 0.0 else 1.0
    return damped


def _pairs_together(columns: int, packings: Sequence[Pairs]) -> NDArray[np.int64]:
    """An order of the columns in which the pairs of the first packing stand side by side."""
    if not packings:
        return np.arange(columns, dtype=np.int64)
    paired = packings[0].reshape(-1)
    rest = np.setdiff1d(np.arange(columns, dtype=np.int64), paired)
    return np.concatenate([paired, rest])


class _Problem:
    """One weight matrix in the order of its pairs."""

    def __init__(
        self,
        exact: Matrix,
        hessian: Matrix,
        order: NDArray[np.int64],
        packings: Sequence[Pairs],
    ) -> None:
        self.exact = exact
        self.hessian = hessian
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        self.partners: list[list[int]] = [[] for _ in order]
        for packing in packings:
            for left, right in place[packing].tolist():
                self.partners[left].append(right)
                self.partners[right].append(left)
        self.pairs = len(packings[0]) if packings else 0

    def objective(self, whole: Matrix) -> Matrix:
        """``(M,)`` squared output error in units of the squared scale."""
        error = whole - self.exact
        return np.asarray(np.einsum("mk,mk->m", error @ self.hessian, error))

    def bounds(self, whole: Matrix, column: int, *, apart: int = -1) -> tuple[Matrix, Matrix]:
        """Smallest and largest integer that partners allow a column, ``apart`` not counted."""
        low = np.full(len(whole), -float(WEIGHT_LEVELS))
        high = -low
        for partner in self.partners[column]:
            if partner != apart:
                other = whole[:, partner]
                low = np.maximum(low, -PAIR_LIMIT - np.minimum(other, 0.0))
                high = np.minimum(high, PAIR_LIMIT - np.maximum(other, 0.0))
        return low, high

    def handed_on(self, nearest: Matrix) -> Matrix:
        """Rounds column by column and hands each error on to the columns after it (GPTQ)."""
        inverse = np.linalg.inv(self.hessian)
        factor = np.linalg.cholesky((inverse + inverse.T) / 2).T  # upper triangle
        wanted = self.exact.copy()
        whole = np.zeros_like(nearest)
        columns = whole.shape[1]
        for begin in range(0, columns, _BLOCK):
            end = min(begin + _BLOCK, columns)
            errors = np.zeros((len(whole), end - begin))
            for k in range(begin, end):
                low, high = self.bounds(whole, k)
                whole[:, k] = np.clip(np.rint(wanted[:, k]), low, high)
                error = (wanted[:, k] - whole[:, k]) / factor[k, k]
                wanted[:, k:end] -= error[:, None] * factor[k, k:end]
                errors[:, k - begin] = error
            wanted[:, end:] -= errors @ factor[begin:end, end:]
        return whole

    def descend(self, start: Matrix, sweeps: int) -> Matrix:
        """Coordinate descent; the objective never rises."""
        whole = start.copy()
        gradient = (whole - self.exact) @ self.hessian
        columns = whole.shape[1]
        for _ in range(sweeps):
            moved = False
            for begin in range(0, columns, _BLOCK):
                block = slice(begin, min(begin + _BLOCK, columns))
                before = whole[:, block].copy()
                self._sweep(whole, gradient[:, block].copy(), block)
                step = whole[:, block] - before
                if step.any():
                    gradient += step @ self.hessian[block]
                    moved = True
            if not moved:
                break
        return whole

    def _sweep(self, whole: Matrix, gradient: Matrix, block: slice) -> None:
        """Moves the integers of one block in place; ``gradient`` is the block's own copy."""
        begin = block.start
        for k in range(block.start, block.stop):
            row = self.hessian[k, block]
            low, high = self.bounds(whole, k)
            target = np.rint(whole[:, k] - gradient[:, k - begin] / row[k - begin])
            step = np.clip(target, low, high) - whole[:, k]
            whole[:, k] += step
            gradient += step[:, None] * row
            if k % 2 == 1 and k < 2 * self.pairs:
                self._trade(whole, gradient, k - 1, k, block)

    def _trade(self, whole: Matrix, gradient: Matrix, a: int, b: int, block: slice) -> None:
        """One weight of a pair gains what the other loses: the way along a limit they share."""
        begin = block.start
        row = self.hessian[a, block] - self.hessian[b, block]
        curvature = row[a - begin] - row[b - begin]
        low_a, high_a = self.bounds(whole, a, apart=b)
        low_b, high_b = self.bounds(whole, b, apart=a)
        low = np.maximum(low_a - whole[:, a], whole[:, b] - high_b)
        high = np.minimum(high_a - whole[:, a], whole[:, b] - low_b)
        slope = gradient[:, a - begin] - gradient[:, b - begin]
        step = np.clip(np.rint(-slope / curvature), low, high)
        whole[:, a] += step
        whole[:, b] -= step
        gradient += step[:, None] * row
