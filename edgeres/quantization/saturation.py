"""INT8 weights whose products cannot overflow int16 on CPUs without VNNI, and the proof.

An unsigned activation is at most 255, so a pair of products stays in int16 whatever the image if
the positive weights of the pair add up to at most 128 and the negative ones to at least -128:
255 * 128 = 32640 <= 32767. Few pairs of 8-bit weights break that rule; only they are moved, by the
least squared output error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeres.errors import StageError
from edgeres.quantization.pairing import Pairs

#: Largest magnitude of the sum of the weights of one sign in a pair.
PAIR_LIMIT = 128


@dataclass(frozen=True)
class SaturationProof:
    """Exhaustive bound over all pairs of a layer, under every packing.

    Attributes:
        highest: Largest sum of the positive weights of a pair.
        lowest: Smallest sum of the negative weights of a pair.
        pairs: Number of pairs looked at, over all output channels and packings.
        moved: Number of weights that were moved away from the nearest integer to obey the rule.
    """

    highest: int
    lowest: int
    pairs: int
    moved: int = 0

    @property
    def safe(self) -> bool:
        """True where no image can make a pair of products leave int16."""
        return self.highest <= PAIR_LIMIT and self.lowest >= -PAIR_LIMIT


def prove(
    values: NDArray[np.int8], packings: Sequence[Pairs], *, moved: int = 0
) -> SaturationProof:
    """Looks at every pair of a weight matrix.

    Args:
        values: ``(M, K) int8``.
        packings: From :func:`edgeres.quantization.pairing.pairings`.
        moved: Passed on into the result.
    """
    highest = lowest = pairs = 0
    whole = values.astype(np.int16)
    for packing in packings:
        first, second = whole[:, packing[:, 0]], whole[:, packing[:, 1]]
        positive = np.maximum(first, 0) + np.maximum(second, 0)
        negative = np.minimum(first, 0) + np.minimum(second, 0)
        highest = max(highest, int(positive.max(initial=0)))
        lowest = min(lowest, int(negative.min(initial=0)))
        pairs += positive.size
    return SaturationProof(highest, lowest, pairs, moved)


def require_safe(name: str, proof: SaturationProof) -> None:
    """Checks the proof of one layer.

    Raises:
        StageError: A pair breaks the rule; :func:`move_pairs` did not do its work.
    """
    if not proof.safe:
        raise StageError(
            f"weights of {name} are not saturation-safe: pair sums reach {proof.lowest} and "
            f"{proof.highest}, allowed is -{PAIR_LIMIT} to {PAIR_LIMIT}.",
            hint="This is a fault of edgeres; please report it with the model.",
        )


def move_pairs(
    whole: NDArray[np.float32],
    exact: NDArray[np.float32],
    importance: NDArray[np.float32],
    packings: Sequence[Pairs],
) -> int:
    """Moves offending pairs onto the limit, in place, by the least squared output error.

    For a pair with targets ``v`` and importances ``h`` the least ``h1 dx**2 + h2 dy**2`` with
    ``x + y = 128`` lies at ``x = v1 - (v1 + v2 - 128) h2 / (h1 + h2)``; the error along that line
    is a parabola, so the nearest integer is the best one. Magnitudes only ever shrink, so making
    one packing safe cannot undo another.

    Args:
        whole: ``(M, K) float32`` integers, changed in place.
        exact: ``(M, K) float32`` weights divided by the scale.
        importance: ``(K,)``, or ``(M, K)``, non-negative weight of each squared error.
        packings: Pairs of columns.

    Returns:
        Number of weights changed.
    """
    before = whole.copy()
    weighting = np.broadcast_to(importance, whole.shape)
    for packing in packings:
        left, right = packing[:, 0], packing[:, 1]
        sums = whole.take(left, axis=1)
        sums += whole.take(right, axis=1)
        np.abs(sums, out=sums)  # of two signs no two bytes are over the limit
        rows, pairs = np.divmod(np.flatnonzero(sums > PAIR_LIMIT), len(left))
        if not len(rows):
            continue
        at_a, at_b = (rows, left[pairs]), (rows, right[pairs])
        sign = np.sign(whole[at_a])
        most_a, most_b = np.abs(whole[at_a]), np.abs(whole[at_b])
        want_a, want_b = exact[at_a] * sign, exact[at_b] * sign
        h_a, h_b = weighting[at_a], weighting[at_b]
        share = np.where(h_a + h_b > 0, h_b / np.maximum(h_a + h_b, 1e-30), 0.5)
        best = np.rint(want_a - (want_a + want_b - PAIR_LIMIT) * share)
        new_a = np.clip(best, PAIR_LIMIT - most_b, most_a)
        whole[at_a] = sign * new_a
        whole[at_b] = sign * (PAIR_LIMIT - new_a)
    return int(np.count_nonzero(whole != before))
