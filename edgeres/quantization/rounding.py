"""Learned rounding: the integers of a layer chosen together, for the least error of its output.

Rounding every weight to the nearest integer is best for each weight alone. The output errors of the
weights of a channel add up, though, and errors that cancel are better than small ones (Nagel et
al., AdaRound, arXiv 2004.10568). For one output channel with errors ``e`` (in units of its scale)
the squared output error is ``e^T H e``, ``H`` being the covariance or second moment of the input.
AdaRound minimizes it by gradient descent on a relaxation; here integers are searched directly:

1. columns are rounded one after the other, the errors of those before it fed back into each: GPTQ
   (Frantar et al., arXiv 2210.17323) in the form that needs no inverse (Chee et al., QuIP, arXiv
   2307.13304, equation 2 and theorem 6, the last column first); of a pair that would be over its
   limit each gives its share;
2. from there, and in small layers from nearest rounding too, each integer in turn is moved to where
   the objective is least with all others held (coordinate descent); where a pair may saturate, its
   two weights may also trade;
3. a row that is not better than nearest rounding, moved pairs included, keeps nearest rounding.

Columns depend on one another, rows do not. So a column of all rows is a contiguous piece of memory
here, and what a few columns do to the others follows as one matrix product: to those near them at
once, to all the rest once a wide block is done (the lazy batch updates of GPTQ, section 3.3). All
groups of a grouped convolution are worked on at once. Products are of float32: integers, and errors
of some units, against a second moment that is damped by a hundredth.

The objective is summed in float64, and no random numbers are taken. No step leaves the saturation
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

Matrix = NDArray[np.float32]

#: Share of the mean energy that is added to every weight's own, so that directions that the
#: images do not show stay near nearest rounding (GPTQ adds as much).
_DAMPING = 0.01
#: Columns after which all others, and after which those of the same wide block hear of it. Even,
#: so that the weights of a pair are in one block.
_WIDE, _NARROW = 256, 16
_SWEEPS = 8
#: Most columns for which descent sets out from nearest rounding, too. Of the few local minima of a
#: small layer the better one is worth 0.1 dB; those of larger ones are alike.
_TWO_STARTS = 640
#: Descent ends with the round that lowers the objective by less than this share.
_LEAST_GAIN = 0.01


@dataclass(frozen=True)
class Rounding:
    """Integers of one layer and what they cost.

    Attributes:
        whole: ``(M, K) float32`` integers.
        before: ``(M,) float64`` objective of the start.
        after: ``(M,) float64`` objective of ``whole``; nowhere greater.
    """

    whole: Matrix
    before: NDArray[np.float64]
    after: NDArray[np.float64]


def learn_rounding(
    start: NDArray[np.floating],
    exact: NDArray[np.floating],
    hessian: NDArray[np.floating],
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
    groups = hessian.astype(np.float32, copy=False).reshape(-1, columns, columns)
    order = _pairs_together(columns, packings)
    problem = _Problem(_damped(groups, order), order, packings)

    def by_column(values: NDArray[np.floating]) -> Matrix:
        """``(G, K, M / G)``, the columns in the order of their pairs."""
        grouped = values.reshape(len(groups), -1, columns)[:, :, order]
        return np.ascontiguousarray(grouped.swapaxes(1, 2), np.float32)

    best, before, after = problem.solve(by_column(start), by_column(exact), sweeps)
    found = np.empty((rows, columns), np.float32)
    found[:, order] = best.swapaxes(1, 2).reshape(rows, columns)
    return Rounding(found, before.reshape(-1), after.reshape(-1))


def _damped(groups: Matrix, order: NDArray[np.int64]) -> Matrix:
    """``(G, K, K)`` in this order, of mean energy 1, with something on the diagonal."""
    damped = np.empty(groups.shape, np.float32)
    for group, hessian in enumerate(groups):
        # One group at a time: a layer of 4,608 weights a channel has 85 MB.
        np.take(hessian[order], order, axis=1, out=damped[group], mode="clip")
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
    """One layer's objective and rules; values are ``(G, K, R)``, a column of all rows together."""

    def __init__(
        self, hessian: Matrix, order: NDArray[np.int64], packings: Sequence[Pairs]
    ) -> None:
        self.hessian = hessian
        diagonal = np.einsum("gkk->gk", hessian)
        #: ``(K, G, 1)``
        self.inverse = np.ascontiguousarray(1 / diagonal.T)[..., None]
        self.bounds = _Bounds(order, packings)
        self.pairs = len(packings[0]) if packings else 0

    def solve(
        self, start: Matrix, exact: Matrix, sweeps: int
    ) -> tuple[Matrix, NDArray[np.float64], NDArray[np.float64]]:
        """Integers of some rows, and the objective ``(G, R)`` before and after."""
        error = start - exact
        best, least = start, _products(error, self.hessian @ error)
        before = least
        starts = [self.handed_on(exact)]
        if exact.shape[1] <= _TWO_STARTS:
            starts.append(start.copy())
        for whole in starts:
            after = self._descend(whole, exact, sweeps)
            better = after < least
            best = np.where(better[:, None], whole, best)
            least = np.where(better, after, least)
        return best, before, least

    def handed_on(self, exact: Matrix) -> Matrix:
        """Rounds column by column, the last first, the errors of those before fed into each."""
        feedback, worth = _factors(self.hessian)
        whole = np.zeros_like(exact)
        error = np.zeros_like(exact)
        columns = exact.shape[1]
        for begin in reversed(range(0, columns, _WIDE)):
            wide = slice(begin, min(begin + _WIDE, columns))
            wanted = exact[:, wide] - feedback[:, wide, wide.stop :] @ error[:, wide.stop :]
            for at in reversed(range(wide.start, wide.stop, _NARROW)):
                narrow = slice(at, min(at + _NARROW, wide.stop))
                inside = slice(narrow.start - begin, narrow.stop - begin)
                after = slice(narrow.stop, wide.stop)
                if after.start < after.stop:
                    wanted[:, inside] -= feedback[:, narrow, after] @ error[:, after]
                self._hand_on(narrow, wanted[:, inside], (feedback, worth), exact, whole, error)
        return whole

    def _hand_on(
        self,
        block: slice,
        wanted: Matrix,
        factors: tuple[Matrix, Matrix],
        exact: Matrix,
        whole: Matrix,
        error: Matrix,
    ) -> None:
        """Rounds the columns of a narrow block; ``wanted`` knows of all behind the block."""
        feedback, worth = factors
        for k in reversed(range(block.start, block.stop)):
            here = wanted[:, k - block.start]
            near = slice(k + 1, block.stop)
            if k % 2 == 1 and k < 2 * self.pairs:
                both = slice(k - 1 - block.start, k + 1 - block.start)
                wanted[:, both] -= feedback[:, k - 1 : k + 1, near] @ error[:, near]
                _leave_room(here, wanted[:, k - 1 - block.start], worth[:, k - 1 : k + 1])
            elif k + 1 < 2 * self.pairs:  # its partner's error is all that is missing
                here -= feedback[:, k, k + 1, None] * error[:, k + 1]
            else:
                here -= (feedback[:, k : k + 1, near] @ error[:, near])[:, 0]
            np.rint(here, out=here)
            self.bounds.clip(here, whole, k)
            whole[:, k] = here
            np.subtract(here, exact[:, k], out=error[:, k])

    def _descend(self, whole: Matrix, exact: Matrix, sweeps: int) -> NDArray[np.float64]:
        """Coordinate descent in place; the objective ``(G, R)``, which never rises, at its end."""
        gradient = self.hessian @ (whole - exact)
        objective = _products(whole - exact, gradient)
        for _ in range(sweeps):
            for wide in _blocks(0, whole.shape[1], _WIDE):
                self._descend_in(whole, gradient, wide)
            last, objective = objective, _products(whole - exact, gradient)
            if (last - objective).sum() <= _LEAST_GAIN * last.sum():
                break
        return objective

    def _descend_in(self, whole: Matrix, gradient: Matrix, wide: slice) -> None:
        """One round over a wide block, and what it does to the gradient of all columns."""
        steps = np.zeros_like(whole[:, wide])
        for narrow in _blocks(wide.start, wide.stop, _NARROW):
            step = steps[:, narrow.start - wide.start : narrow.stop - wide.start]
            self._sweep(whole, gradient[:, narrow], narrow, step)
            rest = slice(narrow.stop, wide.stop)
            if rest.start < rest.stop:
                gradient[:, rest] += self.hessian[:, rest, narrow] @ step
        if steps.any():
            self._tell(gradient, wide, steps)

    def _tell(self, gradient: Matrix, wide: slice, steps: Matrix) -> None:
        """Those behind in the block have heard of those before already, all others of none."""
        for rest in (slice(0, wide.start), slice(wide.stop, gradient.shape[1])):
            if rest.start < rest.stop:
                gradient[:, rest] += self.hessian[:, rest, wide] @ steps
        for narrow in _blocks(wide.start, wide.stop, _NARROW):
            after = slice(narrow.start - wide.start, None)
            own = slice(narrow.start, wide.stop)
            gradient[:, narrow] += self.hessian[:, narrow, own] @ steps[:, after]

    def _sweep(self, whole: Matrix, gradient: Matrix, block: slice, step: Matrix) -> None:
        """Moves the integers of one block in place and says by how much in ``step``."""
        begin = block.start
        for k in range(block.start, block.stop):
            here = step[:, k - begin]
            np.multiply(self._slope(gradient, block, step, k), self.inverse[k], out=here)
            np.subtract(whole[:, k], here, out=here)
            np.rint(here, out=here)
            self.bounds.clip(here, whole, k)
            here -= whole[:, k]
            whole[:, k] += here
            if k % 2 == 1 and k < 2 * self.pairs:
                self._trade(whole, gradient, block, step, k - 1)

    def _slope(self, gradient: Matrix, block: slice, step: Matrix, k: int) -> Matrix:
        """Gradient of a column after the steps of its block so far (its own column at zero)."""
        before = k - block.start
        if before == 0:
            return gradient[:, 0]
        near = self.hessian[:, k : k + 1, block.start : k] @ step[:, :before]
        near[:, 0] += gradient[:, before]
        return np.asarray(near[:, 0])

    def _trade(self, whole: Matrix, gradient: Matrix, block: slice, step: Matrix, a: int) -> None:
        """One weight of a pair gains what the other loses: the way along a limit they share."""
        b = a + 1
        at, until = a - block.start, b + 1 - block.start
        own = self.hessian[:, a : b + 1, block.start : b + 1]
        slopes = own @ step[:, :until]
        slopes += gradient[:, at:until]
        curvature = own[:, 0, at] - own[:, 1, at] - own[:, 0, at + 1] + own[:, 1, at + 1]
        trade = slopes[:, 1] - slopes[:, 0]
        trade /= curvature[:, None]
        np.rint(trade, out=trade)
        if not trade.any():
            return
        self.bounds.clip_trade(trade, whole, a, b)
        whole[:, a] += trade
        whole[:, b] -= trade
        step[:, at] += trade
        step[:, at + 1] -= trade


def _leave_room(second: Matrix, first: Matrix, worth: Matrix) -> None:
    """Takes from the second of a pair its share of what the two are over their common limit.

    Args:
        second: ``(G, R)`` what it should be, changed in place.
        first: ``(G, R)`` what the first should be.
        worth: ``(G, 2)`` what an error of the first and of the second costs.
    """
    excess = np.abs(first)
    excess += np.abs(second)
    excess -= PAIR_LIMIT
    excess[(excess < 0) | (first * second < 0)] = 0
    excess *= (worth[:, 0] / worth.sum(axis=1))[:, None]
    second -= np.copysign(excess, second)


def _products(error: Matrix, gradient: Matrix) -> NDArray[np.float64]:
    """``(G, R)``: what each row's error costs, summed in float64."""
    return np.asarray(np.einsum("gkr,gkr->gr", error, gradient, dtype=np.float64))


def _factors(hessian: Matrix) -> tuple[Matrix, Matrix]:
    """Of ``H = (F + I)^T D (F + I)``: F in the upper half of ``(G, K, K)``, and D ``(G, K)``."""
    from scipy.linalg.lapack import dpotrf, spotrf

    factors = hessian.copy()
    diagonal = np.empty(hessian.shape[:2], np.float32)
    for group in range(len(factors)):
        upper = factors[group]
        # To Fortran the upper half is the lower one, and the factor is written where it lies.
        failed = spotrf(upper.T, lower=1, clean=0, overwrite_a=1)[1]
        if failed:  # rounding took away what damping gave
            upper[:] = dpotrf(hessian[group].T.astype(np.float64), lower=1, clean=0)[0].T
        root = np.diagonal(upper).copy()
        upper /= root[:, None]
        diagonal[group] = np.square(root)
    return factors, diagonal


class _Bounds:
    """What the saturation rule leaves of -127..127 for each column."""

    def __init__(self, order: NDArray[np.int64], packings: Sequence[Pairs]) -> None:
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        self.partners: list[list[int]] = [[] for _ in order]
        for packing in packings:
            for left, right in place[packing].tolist():
                self.partners[left].append(right)
                self.partners[right].append(left)

    def clip(self, values: Matrix, whole: Matrix, column: int) -> None:
        """Brings ``(G, R)`` integers for a column between the bounds that its partners leave."""
        np.minimum(values, WEIGHT_LEVELS, out=values)
        np.maximum(values, -WEIGHT_LEVELS, out=values)
        for partner in self.partners[column]:
            other = whole[:, partner]
            np.maximum(values, -PAIR_LIMIT - np.minimum(other, 0), out=values)
            np.minimum(values, PAIR_LIMIT - np.maximum(other, 0), out=values)

    def clip_trade(self, trade: Matrix, whole: Matrix, a: int, b: int) -> None:
        """Brings what a gains and b loses between the bounds of both; their own limit holds."""
        low_a, high_a = self._apart(whole, a, b)
        low_b, high_b = self._apart(whole, b, a)
        np.maximum(trade, np.maximum(low_a - whole[:, a], whole[:, b] - high_b), out=trade)
        np.minimum(trade, np.minimum(high_a - whole[:, a], whole[:, b] - low_b), out=trade)

    def _apart(
        self, whole: Matrix, column: int, apart: int
    ) -> tuple[Matrix | np.float32, Matrix | np.float32]:
        """Smallest and largest integer that partners allow a column, ``apart`` not counted."""
        low: Matrix | np.float32 = np.float32(-WEIGHT_LEVELS)
        high: Matrix | np.float32 = np.float32(WEIGHT_LEVELS)
        for partner in self.partners[column]:
            if partner != apart:
                other = whole[:, partner]
                low = np.maximum(low, -PAIR_LIMIT - np.minimum(other, 0))
                high = np.minimum(high, PAIR_LIMIT - np.maximum(other, 0))
        return low, high
