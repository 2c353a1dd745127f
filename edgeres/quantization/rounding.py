"""Learned rounding: the integers of a layer chosen together, for the least error of its output.

Rounding every weight to the nearest integer is best for each weight alone. The output errors of the
weights of a channel add up, though, and errors that cancel are better than small ones (Nagel et
al., AdaRound, arXiv 2004.10568). For one output channel with errors ``e`` (in units of its scale)
the squared output error is ``e^T H e``, ``H`` being the covariance or second moment of the input.
AdaRound minimizes it by gradient descent on a relaxation; here integers are searched directly:

1. columns are rounded one after the other, the errors of those before it fed back into each: GPTQ
   (Frantar et al., arXiv 2210.17323) in the form that needs no inverse (Chee et al., QuIP, arXiv
   2307.13304, equation 2 and theorem 6, with the columns in their own order);
2. from there, and from nearest rounding too, each integer in turn is moved to where the objective
   is least with all others held (coordinate descent); where a pair may saturate, its two weights
   may also trade;
3. a row that is not better than nearest rounding, moved pairs included, keeps nearest rounding.

Columns depend on one another, rows do not. So a column of all rows is a contiguous piece of memory
here, and what a few columns do to the others follows as one matrix product: to those near them at
once, to all the rest once a wide block is done (the lazy batch updates of GPTQ, section 3.3).

Everything is exact in its objective and takes no random numbers. No step leaves the saturation
rule: an integer moves only between bounds that its partners leave.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
#: Columns after which all others, and after which those of the same wide block hear of it. Even,
#: so that the weights of a pair are in one block.
_WIDE, _NARROW = 192, 16
#: Rows worked on at once: what a narrow block touches of them stays in the cache.
_ROWS = 1024
_SWEEPS = 4


@dataclass(frozen=True)
class Rounding:
    """Integers of one layer and what they cost.

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
        hessian: ``(K, K)``, or ``(G, K, K)`` for G groups of M / G rows each; symmetric, positive
            semidefinite.
        packings: Pairs that must be saturation-safe; none where nothing saturates.
        sweeps: Rounds of coordinate descent, at most.
    """
    rows, columns = exact.shape
    groups = hessian.reshape(-1, columns, columns)
    order = _pairs_together(columns, packings)
    problem = _Problem(_damped(groups, order), order, packings)
    step = max(1, _ROWS // len(groups)) * len(groups)

    def by_column(values: Matrix) -> Matrix:
        """``(K, G, M / G)``, the columns in the order of their pairs."""
        return np.ascontiguousarray(values[:, order].T).reshape(columns, len(groups), -1)

    found = np.empty((rows, columns))
    before, after = np.empty(rows), np.empty(rows)
    members = np.arange(rows).reshape(len(groups), -1)
    for begin in range(0, members.shape[1], step // len(groups)):
        chosen = members[:, begin : begin + step // len(groups)].reshape(-1)
        best, old, new = problem.solve(by_column(start[chosen]), by_column(exact[chosen]), sweeps)
        found[np.ix_(chosen, order)] = best.reshape(columns, -1).T
        before[chosen], after[chosen] = old.reshape(-1), new.reshape(-1)
    return Rounding(found, before, after)


def _damped(groups: Matrix, order: NDArray[np.int64]) -> Matrix:
    """``(G, K, K)`` in this order, with something on the diagonal."""
    damped = np.empty(groups.shape)
    for group, hessian in enumerate(groups):
        # One group at a time: a layer of 4,608 weights a channel has 170 MB.
        np.take(hessian[order], order, axis=1, out=damped[group])
        energy = float(np.trace(hessian)) / len(hessian)
        damped[group][np.diag_indices(len(hessian))] += _DAMPING * energy if energy > 0.0 else 1.0
    return damped


def _pairs_together(columns: int, packings: Sequence[Pairs]) -> NDArray[np.int64]:
    """An order of the columns in which the pairs of the first packing stand side by side."""
    if not packings:
        return np.arange(columns, dtype=np.int64)
    paired = packings[0].reshape(-1)
    rest = np.setdiff1d(np.arange(columns, dtype=np.int64), paired)
    return np.concatenate([paired, rest])


def _blocks(begin: int, end: int, width: int) -> Iterator[slice]:
    for at in range(begin, end, width):
        yield slice(at, min(at + width, end))


class _Problem:
    """One layer's objective and rules; values are ``(K, G, R)``, the columns first."""

    def __init__(
        self, hessian: Matrix, order: NDArray[np.int64], packings: Sequence[Pairs]
    ) -> None:
        self.hessian = hessian
        #: ``(K, K, G, 1)``: what a step in one column does to the gradient of another.
        self.effects = np.moveaxis(hessian, 0, -1)[..., None]
        self.curvatures = np.ascontiguousarray(np.einsum("gkk->kg", hessian))[..., None]
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        self.partners: list[list[int]] = [[] for _ in order]
        for packing in packings:
            for left, right in place[packing].tolist():
                self.partners[left].append(right)
                self.partners[right].append(left)
        self.pairs = len(packings[0]) if packings else 0
        self._feedback: Matrix | None = None

    def solve(self, start: Matrix, exact: Matrix, sweeps: int) -> tuple[Matrix, Matrix, Matrix]:
        """Integers of some rows, and the objective ``(G, R)`` before and after."""
        rows = start.shape[2]
        # Both starts side by side: twice the rows cost less than twice the columns.
        whole = np.concatenate([self.handed_on(exact), start], axis=2)
        error = whole - np.concatenate([exact, exact], axis=2)
        gradient = self._times(slice(None), slice(None), error)
        before = np.einsum("kgr,kgr->gr", error[..., rows:], gradient[..., rows:])
        error -= whole
        self._descend(whole, gradient, sweeps)
        error += whole
        after = np.einsum("kgr,kgr->gr", error, gradient)
        best, least = start, before
        for half in (slice(0, rows), slice(rows, 2 * rows)):
            better = after[:, half] < least
            best = np.where(better, whole[..., half], best)
            least = np.where(better, after[:, half], least)
        return best, before, least

    def _times(self, of: slice, by: slice, values: Matrix) -> Matrix:
        """``H[of, by] @ values`` of every group."""
        product = self.hessian[:, of, by] @ np.moveaxis(values, 1, 0)
        return np.ascontiguousarray(np.moveaxis(product, 0, 1))

    def _allowed(
        self, whole: Matrix, column: int, *, apart: int = -1
    ) -> tuple[Matrix | float, Matrix | float]:
        """Smallest and largest integer that partners allow a column, ``apart`` not counted."""
        low: Matrix | float = -float(WEIGHT_LEVELS)
        high: Matrix | float = float(WEIGHT_LEVELS)
        for partner in self.partners[column]:
            if partner != apart:
                other = whole[partner]
                low = np.maximum(low, -PAIR_LIMIT - np.minimum(other, 0.0))
                high = np.minimum(high, PAIR_LIMIT - np.maximum(other, 0.0))
        return low, high

    def handed_on(self, exact: Matrix) -> Matrix:
        """Rounds column by column, the errors of the columns before fed back into each."""
        feedback = self._feedback if self._feedback is not None else self._factor()
        self._feedback = feedback
        whole = np.zeros_like(exact)
        error = np.zeros_like(exact)
        for wide in _blocks(0, len(exact), _WIDE):
            # (G, before, wide) transposed: what all columns before the block feed into it.
            fed = np.swapaxes(feedback[:, : wide.start, wide], 1, 2) @ np.moveaxis(
                error[: wide.start], 1, 0
            )
            wanted = exact[wide] - np.moveaxis(fed, 0, 1)
            for k in range(wide.start, wide.stop):
                here = wanted[k - wide.start]
                if k > wide.start:
                    near = feedback[:, wide.start : k, k]
                    here -= np.einsum("gk,kgr->gr", near, error[wide.start : k], optimize=True)
                low, high = self._allowed(whole, k)
                whole[k] = np.minimum(np.maximum(np.rint(here), low), high)
                np.subtract(whole[k], exact[k], out=error[k])
        return whole

    def _factor(self) -> Matrix:
        """``(G, K, K)``, strictly upper: ``H = (F + I) D (F + I)^T`` with D diagonal."""
        factors = np.empty_like(self.hessian)
        for group, hessian in enumerate(self.hessian):
            upper = np.linalg.cholesky(hessian[::-1, ::-1])[::-1, ::-1]
            np.divide(upper, np.diagonal(upper), out=factors[group])
        return factors

    def _descend(self, whole: Matrix, gradient: Matrix, sweeps: int) -> None:
        """Coordinate descent in place; the objective never rises."""
        columns = len(whole)
        for _ in range(sweeps):
            moved = False
            for wide in _blocks(0, columns, _WIDE):
                before = whole[wide].copy()
                for narrow in _blocks(wide.start, wide.stop, _NARROW):
                    earlier = whole[narrow].copy()
                    self._sweep(whole, gradient[narrow].copy(), narrow)
                    step = whole[narrow] - earlier
                    if step.any():
                        gradient[wide] += self._times(wide, narrow, step)
                        moved = True
                step = whole[wide] - before
                for rest in (slice(0, wide.start), slice(wide.stop, columns)):
                    if rest.start < rest.stop and step.any():
                        gradient[rest] += self._times(rest, wide, step)
            if not moved:
                break

    def _sweep(self, whole: Matrix, gradient: Matrix, block: slice) -> None:
        """Moves the integers of one block in place; ``gradient`` is the block's own copy."""
        begin = block.start
        for k in range(block.start, block.stop):
            low, high = self._allowed(whole, k)
            step = gradient[k - begin] / self.curvatures[k]
            np.subtract(whole[k], step, out=step)
            np.rint(step, out=step)
            np.maximum(step, low, out=step)
            np.minimum(step, high, out=step)
            step -= whole[k]
            if step.any():
                whole[k] += step
                gradient += self.effects[k, block] * step
            if k % 2 == 1 and k < 2 * self.pairs:
                self._trade(whole, gradient, k - 1, k, block)

    def _trade(self, whole: Matrix, gradient: Matrix, a: int, b: int, block: slice) -> None:
        """One weight of a pair gains what the other loses: the way along a limit they share."""
        begin = block.start
        effect = self.effects[a, block] - self.effects[b, block]
        curvature = effect[a - begin] - effect[b - begin]
        step = gradient[b - begin] - gradient[a - begin]
        step /= curvature
        np.rint(step, out=step)
        if not step.any():
            return
        low_a, high_a = self._allowed(whole, a, apart=b)
        low_b, high_b = self._allowed(whole, b, apart=a)
        np.maximum(step, np.maximum(low_a - whole[a], whole[b] - high_b), out=step)
        np.minimum(step, np.minimum(high_a - whole[a], whole[b] - low_b), out=step)
        if step.any():
            whole[a] += step
            whole[b] -= step
            gradient += effect * step
