"""Learned rounding: the integers of a layer chosen together, for the least error of its output.

Rounding every weight to the nearest integer is best for each weight alone. The output errors of the
weights of a channel add up, though, and errors that cancel are better than small ones (Nagel et
al., AdaRound, arXiv 2004.10568). For one output channel with errors ``e`` (in units of its scale)
the squared output error is ``e^T H e``, ``H`` being the covariance or second moment of the input.
AdaRound minimizes it by gradient descent on a relaxation; here integers are searched directly:

1. columns are rounded one after the other, the errors of those before it fed back into each: GPTQ
   (Frantar et al., arXiv 2210.17323) in the form that needs no inverse (Chee et al., QuIP, arXiv
   2307.13304, equation 2 and theorem 6, the last column first). The columns that others explain
   least are rounded first. Of a pair that would be over its limit each gives its share;
2. from there, and in small layers from nearest rounding too, each integer in turn is moved to where
   the objective is least with all others held (coordinate descent); where a pair may saturate, its
   two weights may also trade;
3. a row that is not better than nearest rounding, moved pairs included, keeps nearest rounding.

Columns depend on one another, rows do not. So a column of all rows is a contiguous piece of memory
here, and what wide blocks of columns do to others follows as one matrix product (the lazy batch
updates of GPTQ, section 3.3). Within a narrow block all columns are rounded at once, again and
again, each time with the errors of the time before, until nothing changes. Each depends only on
those before it, so that is what column by column gives, after fewer rounds than there are columns;
and those up to the first that changed are done.
All groups of a grouped convolution are worked on at once. Products are of float32: integers, and
errors of some units, against a second moment that is damped by a hundredth.

No random numbers are taken. No step leaves the saturation rule: an integer moves only between
bounds that its partners leave.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeres.quantization.pairing import Pairs
from edgeres.quantization.rounding_objective import Objective, Samples, objective, unexplained
from edgeres.quantization.rounding_pairs import Block, Bounds, pair_columns

Matrix = NDArray[np.float32]

#: Columns after which all others hear of it. Even, so that the weights of a pair are in one block.
_WIDE = 256
#: Likewise those of the same wide block: so many numbers of all rows, and columns between these.
_NARROW_NUMBERS, _FEWEST, _MOST = 1 << 15, 8, 32
_SWEEPS = 8
#: Most columns for which descent sets out from nearest rounding, too. Of the few local minima of a
#: small layer the better one is worth 0.1 dB; those of larger ones are alike.
_TWO_STARTS = 256
#: Descent ends with the round that lowers the objective by less than this share: in layers of up to
#: so many columns, and in larger ones, in which a round costs more than it gives.
_LEAST_GAIN, _SMALL, _LEAST_GAIN_LARGE = 0.01, 640, 0.08


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
    hessian: NDArray[np.floating] | Samples,
    packings: Sequence[Pairs] = (),
    *,
    sweeps: int = _SWEEPS,
) -> Rounding:
    """Chooses the integers of all rows of a weight matrix.

    Args:
        start: ``(M, K)`` integers that obey the saturation rule under ``packings``.
        exact: ``(M, K)`` weights divided by their scales.
        hessian: ``(K, K)``, or ``(G, K, K)`` for G groups of M / G rows each; symmetric, positive
            semidefinite. Or, without groups, the patches that it would come from.
        packings: Pairs that must be saturation-safe; none where nothing saturates.
        sweeps: Rounds of coordinate descent, at most.
    """
    rows, columns = exact.shape
    form = _groups(hessian, columns)
    count = 1 if isinstance(form, Samples) else len(form)
    order, limits = pair_columns(unexplained(form), packings)
    bounds = Bounds(order, limits, packings)
    problem = _Problem(objective(form, order), bounds)

    def by_column(values: NDArray[np.floating]) -> Matrix:
        """``(G, K, M / G)`` in this order; an unused column is zero."""
        grouped = values.reshape(count, -1, columns).astype(np.float32, copy=False)
        grouped = np.pad(grouped, ((0, 0), (0, 0), (0, len(order) - columns)))
        return np.ascontiguousarray(grouped[:, :, order].swapaxes(1, 2))

    best, before, after = problem.solve(by_column(start), by_column(exact), sweeps)
    whole = np.empty((rows, len(order)), np.float32)
    whole[:, order] = best.swapaxes(1, 2).reshape(rows, len(order))
    return Rounding(whole[:, :columns], before.reshape(-1), after.reshape(-1))


def column_order(
    hessian: NDArray[np.floating] | Samples, packings: Sequence[Pairs] = ()
) -> NDArray[np.int64]:
    """``(K,)`` columns in the order in which they are taken; the last is rounded first."""
    columns = (hessian.patches if isinstance(hessian, Samples) else hessian).shape[-1]
    order, _ = pair_columns(unexplained(_groups(hessian, columns)), packings)
    return np.asarray(order[order < columns])


def _groups(hessian: NDArray[np.floating] | Samples, columns: int) -> Matrix | Samples:
    if isinstance(hessian, Samples):
        return hessian
    return hessian.astype(np.float32, copy=False).reshape(-1, columns, columns)


def _blocks(begin: int, end: int, width: int) -> Iterator[slice]:
    for at in range(begin, end, width):
        yield slice(at, min(at + width, end))


class _Problem:
    """One layer's objective and rules; values are ``(G, K, R)``, a column of all rows together."""

    def __init__(self, form: Objective, bounds: Bounds) -> None:
        self.form = form
        self.bounds = bounds
        self.alone = bounds.alone

    def solve(
        self, start: Matrix, exact: Matrix, sweeps: int
    ) -> tuple[Matrix, NDArray[np.float64], NDArray[np.float64]]:
        """Integers of some rows, and the objective ``(G, R)`` before and after."""
        best, before = start, self.form.cost(start - exact)
        least = before
        whole, cost = self.handed_on(exact)
        trials = [(whole, cost)]
        if exact.shape[1] <= _TWO_STARTS:
            trials.append((start.copy(), before))
        for place, (whole, cost) in enumerate(trials):
            error = whole - exact
            if place:  # of the first it has been told
                self.form.begin(error)
            after = self._descend(whole, error, cost, sweeps)
            better = after < least
            best = np.where(better[:, None], whole, best)
            least = np.where(better, after, least)
        return best, before, least

    def handed_on(self, exact: Matrix) -> tuple[Matrix, NDArray[np.float64]]:
        """Rounds column by column, the last first, the errors of those before fed into each.

        Returns:
            The integers, and the objective ``(G, R)``: what each column missed its aim by.
        """
        whole = np.zeros_like(exact)
        error = np.zeros_like(exact)
        cost = np.zeros((len(exact), exact.shape[2]))
        self.form.begin(None)
        for wide in reversed(list(_blocks(0, exact.shape[1], _WIDE))):
            correction, factor, worth = self.form.behind(wide, error)
            targets = exact[:, wide] - correction
            behind = error[:, wide]
            for narrow in reversed(list(_blocks(0, behind.shape[1], self._narrow(exact)))):
                aim = targets[:, narrow]
                rest = slice(narrow.stop, None)
                if narrow.stop < behind.shape[1]:
                    aim -= factor[:, narrow, rest] @ behind[:, rest]
                at = slice(wide.start + narrow.start, wide.start + narrow.stop)
                whole[:, at] = self._rounded(
                    at, aim, exact[:, at], factor[:, narrow, narrow], worth[:, narrow], whole
                )
                np.subtract(whole[:, at], exact[:, at], out=error[:, at])
                missed = np.triu(factor[:, narrow, narrow], 1) @ error[:, at]
                missed += whole[:, at] - aim
                missed *= np.sqrt(worth[:, narrow, None])
                cost += np.einsum("gkr,gkr->gr", missed, missed)
            self.form.tell(wide, behind)
        told = self.form.told_cost(error)
        return whole, cost if told is None else told

    def _rounded(
        self,
        at: slice,
        aim: Matrix,
        exact: Matrix,
        factor: Matrix,
        worth: Matrix,
        whole: Matrix,
    ) -> Matrix:
        """Integers of a narrow block; ``aim`` knows of all behind the block."""
        ahead = np.triu(factor, 1)
        pairs = np.arange(0, aim.shape[1], 2)
        ahead[:, pairs, pairs + 1] = 0
        state = self._block(at, factor, worth, whole).rounded(aim, exact)
        end = len(pairs) - 1  # those from here on are done: the last pair from the start
        while end > 0:
            open_ = slice(0, 2 * end)
            inside = slice(at.start, at.start + 2 * end)
            block = self._block(inside, factor[:, open_, open_], worth[:, open_], whole)
            wanted = aim[:, open_] - ahead[:, open_] @ (state - exact)
            found = block.rounded(wanted, exact[:, open_])
            changed = _changed(found, state[:, open_])
            state[:, open_] = found
            end = int(changed[-1]) if len(changed) else 0
        return state

    def _descend(
        self, whole: Matrix, error: Matrix, objective: NDArray[np.float64], sweeps: int
    ) -> NDArray[np.float64]:
        """Coordinate descent in place; the objective ``(G, R)``, which never rises, at its end."""
        small = whole.shape[1] <= _SMALL
        least_gain = _LEAST_GAIN if small else _LEAST_GAIN_LARGE
        for _ in range(sweeps):
            last, objective = objective, objective.copy()
            for wide in _blocks(0, whole.shape[1], _WIDE):
                steps, change = self._descend_in(whole, error, wide)
                error[:, wide] += steps
                objective += change
                self.form.tell(wide, steps)
            told = self.form.told_cost(error)
            objective = objective if told is None else told
            if (last - objective).sum() <= least_gain * last.sum():
                break
        return objective

    def _descend_in(
        self, whole: Matrix, error: Matrix, wide: slice
    ) -> tuple[Matrix, NDArray[np.float64]]:
        """One round over a wide block.

        Returns:
            The steps ``(G, B, R)``, which are taken, and what they change of the objective
            ``(G, R)``.
        """
        slopes, own = self.form.slopes(wide, error)
        diagonal = np.einsum("gkk->gk", own)
        steps = np.zeros_like(slopes)
        change = np.zeros((len(slopes), slopes.shape[2]))
        for narrow in _blocks(0, slopes.shape[1], self._narrow(slopes)):
            at = slice(wide.start + narrow.start, wide.start + narrow.stop)
            here = slopes[:, narrow]
            if narrow.start:
                here += own[:, narrow, : narrow.start] @ steps[:, : narrow.start]
            moved = self._moved(at, here, own[:, narrow, narrow], diagonal[:, narrow], whole)
            steps[:, narrow] = moved
            whole[:, at] += moved
            here += here
            here += own[:, narrow, narrow] @ moved
            change += np.einsum("gkr,gkr->gr", moved, here)
        return steps, change

    def _moved(
        self, at: slice, slopes: Matrix, own: Matrix, diagonal: Matrix, whole: Matrix
    ) -> Matrix:
        before = np.tril(own, -1)
        pairs = np.arange(0, slopes.shape[1], 2)
        before[:, pairs + 1, pairs] = 0
        state = self._block(at, own, diagonal, whole).moved(slopes, whole[:, at])
        begin = 1  # those before are done: the first pair from the start
        while begin < len(pairs):
            open_ = slice(2 * begin, None)
            inside = slice(at.start + 2 * begin, at.stop)
            block = self._block(inside, own[:, open_, open_], diagonal[:, open_], whole)
            here = slopes[:, open_] + before[:, open_] @ state
            found = block.moved(here, whole[:, inside])
            changed = _changed(found, state[:, open_])
            state[:, open_] = found
            begin += int(changed[0]) + 1 if len(changed) else len(pairs)
        return state

    def _narrow(self, values: Matrix) -> int:
        """Columns of a narrow block for ``(G, K, R)`` values."""
        if not self.alone:
            return 2
        fit: int = _NARROW_NUMBERS // (len(values) * values.shape[2]) // 2 * 2
        return min(max(fit, _FEWEST), _MOST)

    def _block(self, at: slice, own: Matrix, worth: Matrix, whole: Matrix) -> Block:
        """The pairs of a narrow block, of which ``own`` says what they do to each other."""
        pairs = np.arange(0, own.shape[1], 2)
        return Block(
            inner=own[:, pairs, pairs + 1, None],
            first=worth[:, 0::2, None],
            second=worth[:, 1::2, None],
            limits=self.bounds.limits[at.start // 2 : at.stop // 2, None],
            ends=self.bounds.ends(whole, at),
            limited=self.bounds.limited,
        )


def _changed(one: Matrix, other: Matrix) -> NDArray[np.intp]:
    """Pairs of columns ``(G, 2 P, R)`` in which something differs, in order."""
    by_column = (one != other).any(axis=(0, 2))
    return np.flatnonzero(by_column[0::2] | by_column[1::2])
