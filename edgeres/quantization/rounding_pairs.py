"""One step for many pairs of columns at once, within what the saturation rule leaves.

Values are ``(G, P, R) float32``: groups, pairs of a block, rows. The two columns of a pair are the
first and the second. Where a pair may saturate, both share a limit; where it may not, the limit is
out of reach. Columns with partners outside their pair (packings with other pairs) come one pair at
a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeres.quantization.pairing import Pairs
from edgeres.quantization.saturation import PAIR_LIMIT
from edgeres.quantization.scales import WEIGHT_LEVELS

Matrix = NDArray[np.float32]
Order = NDArray[np.int64]
_LEVELS = np.float32(WEIGHT_LEVELS)
_NO_LIMIT = np.float32(4 * WEIGHT_LEVELS)


def pair_columns(
    worth: NDArray[np.float64], packings: Sequence[Pairs]
) -> tuple[Order, NDArray[np.float32]]:
    """An order of columns in which pairs stand side by side, those of least worth first.

    Args:
        worth: ``(K,)`` of each column.
        packings: Pairs that share an int16, if any.

    Returns:
        ``(K or K + 1,)`` columns, an even number: the index K is one that nothing uses. And
        ``(pairs,)`` the limit of each pair of the order.
    """
    columns = len(worth)
    paired = packings[0] if packings else np.empty((0, 2), np.int64)
    rest = np.setdiff1d(np.arange(columns, dtype=np.int64), paired)
    rest = rest[np.argsort(worth[rest], kind="stable")]
    if len(rest) % 2:
        rest = np.concatenate([[columns], rest])
    pairs = np.concatenate([paired, rest.reshape(-1, 2)]).astype(np.int64)
    limits = np.full(len(pairs), _NO_LIMIT, np.float32)
    limits[: len(paired)] = PAIR_LIMIT
    by_worth = np.argsort(np.append(worth, 0.0)[pairs].sum(axis=1), kind="stable")
    return pairs[by_worth].reshape(-1), limits[by_worth]


@dataclass(frozen=True)
class Ends:
    """Smallest and largest integer of each column of a pair, its partner in the pair apart."""

    low_first: Matrix | np.float32
    high_first: Matrix | np.float32
    low_second: Matrix | np.float32
    high_second: Matrix | np.float32


class Bounds:
    """What the saturation rule leaves of -127..127 for each column."""

    def __init__(self, order: Order, limits: Matrix, packings: Sequence[Pairs]) -> None:
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        self.limits = limits
        #: Whether some pair has a limit.
        self.limited = bool(len(packings))
        self._partners: list[list[int]] = [[] for _ in order]
        for packing in packings[1:]:
            for left, right in place[packing].tolist():
                if left // 2 != right // 2 or limits[left // 2] > PAIR_LIMIT:
                    self._partners[left].append(right)
                    self._partners[right].append(left)
        #: Whether all partners are in the pair, so that many pairs can be worked on at once.
        self.alone = not any(self._partners)

    def ends(self, whole: Matrix, block: slice) -> Ends:
        """What integers ``(G, K, R)`` outside the pairs of a block leave of it."""
        if self.alone:
            return Ends(-_LEVELS, _LEVELS, -_LEVELS, _LEVELS)
        return Ends(*self._apart(whole, block.start), *self._apart(whole, block.start + 1))

    def _apart(self, whole: Matrix, column: int) -> tuple[Matrix, Matrix]:
        low = np.full((len(whole), 1, whole.shape[2]), -_LEVELS)
        high = np.full_like(low, _LEVELS)
        for partner in self._partners[column]:
            other = whole[:, partner, None]
            np.maximum(low, -PAIR_LIMIT - np.minimum(other, 0), out=low)
            np.minimum(high, PAIR_LIMIT - np.maximum(other, 0), out=high)
        return low, high


def clip_beside(
    values: Matrix,
    low: Matrix | np.float32,
    high: Matrix | np.float32,
    partner: Matrix,
    limits: Matrix,
) -> None:
    """Brings integers between their bounds and what the partner in the pair leaves, in place."""
    edge = np.minimum(partner, -limits - low)  # then no more than the bound is left
    np.subtract(-limits, edge, out=edge)
    np.maximum(values, edge, out=values)
    np.maximum(partner, limits - high, out=edge)
    np.subtract(limits, edge, out=edge)
    np.minimum(values, edge, out=values)


@dataclass(frozen=True)
class Block:
    """Pairs of neighbouring columns that are worked on at once.

    Attributes:
        inner: ``(G, P, 1)``: what the first and the second of a pair have to do with each other.
        first: ``(G, P, 1)`` what an error of the first costs.
        second: Likewise.
        limits: ``(P, 1)`` of the pairs.
        ends: Other bounds.
        limited: Whether some pair has a limit.
    """

    inner: Matrix
    first: Matrix
    second: Matrix
    limits: Matrix
    ends: Ends
    limited: bool

    def rounded(self, wanted: Matrix, exact: Matrix) -> Matrix:
        """Integers ``(G, 2 P, R)``: the second of a pair, then the first with its error fed back.

        Args:
            wanted: ``(G, 2 P, R)`` with the errors fed back of all that is behind the pair.
            exact: ``(G, 2 P, R)`` weights in units of their scale.
        """
        whole = np.empty_like(wanted)
        one, two = whole[:, 0::2], whole[:, 1::2]
        aim, ends = wanted[:, 1::2], self.ends
        if self.limited:
            aim = self._with_room(wanted[:, 0::2], aim)
        np.rint(aim, out=two)
        np.maximum(two, ends.low_second, out=two)
        np.minimum(two, ends.high_second, out=two)
        error = two - exact[:, 1::2]
        error *= self.inner
        np.subtract(wanted[:, 0::2], error, out=one)
        np.rint(one, out=one)
        if self.limited:
            clip_beside(one, ends.low_first, ends.high_first, two, self.limits)
        else:
            np.maximum(one, -_LEVELS, out=one)
            np.minimum(one, _LEVELS, out=one)
        return whole

    def _with_room(self, first: Matrix, second: Matrix) -> Matrix:
        """The second, less its share of what the two are over their common limit."""
        excess = np.abs(first + second)  # of one sign; of two it is never over
        excess -= self.limits
        np.maximum(excess, 0, out=excess)
        excess *= self.first / (self.first + self.second)
        return np.asarray(second - np.copysign(excess, second))

    def moved(self, slopes: Matrix, whole: Matrix) -> Matrix:
        """Steps ``(G, 2 P, R)`` to where the objective is least with all others held.

        The first of a pair moves, then the second; where a pair has a limit, one may then gain
        what the other loses: the way along the limit.

        Args:
            slopes: ``(G, 2 P, R)`` half the gradient, with the steps of the pairs before.
            whole: ``(G, 2 P, R)`` integers before the step.
        """
        steps = np.empty_like(whole)
        old_one, old_two = whole[:, 0::2], whole[:, 1::2]
        one, two, ends = steps[:, 0::2], steps[:, 1::2], self.ends
        np.multiply(slopes[:, 0::2], -1 / self.first, out=one)
        one += old_one
        np.rint(one, out=one)
        clip_beside(one, ends.low_first, ends.high_first, old_two, self.limits)
        one -= old_one
        slope = self.inner * one
        slope += slopes[:, 1::2]
        np.multiply(slope, -1 / self.second, out=two)
        two += old_two
        np.rint(two, out=two)
        clip_beside(two, ends.low_second, ends.high_second, old_one + one, self.limits)
        two -= old_two
        if self.limited:
            slope += self.second * two
            slope -= slopes[:, 0::2]
            slope -= self.first * one
            slope -= self.inner * two
            self._trade(slope, whole, steps)
        return steps

    def _trade(self, slope: Matrix, whole: Matrix, steps: Matrix) -> None:
        """``slope`` is that of the second less that of the first after the steps so far."""
        trade = slope
        trade /= self.first + self.second - 2 * self.inner
        np.rint(trade, out=trade)
        trade[np.broadcast_to(self.limits > PAIR_LIMIT, trade.shape)] = 0
        if not trade.any():
            return
        ends = self.ends
        one, two = whole[:, 0::2] + steps[:, 0::2], whole[:, 1::2] + steps[:, 1::2]
        np.maximum(trade, np.maximum(ends.low_first - one, two - ends.high_second), out=trade)
        np.minimum(trade, np.minimum(ends.high_first - one, two - ends.low_second), out=trade)
        steps[:, 0::2] += trade
        steps[:, 1::2] -= trade
