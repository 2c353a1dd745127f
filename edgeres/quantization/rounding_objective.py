"""The squared output error of a layer as a quadratic form of its weight errors, block by block.

For one output channel with weight errors ``e`` the squared output error is ``e^T H e``, ``H`` being
the mean of ``x x^T`` over input patches ``x``, with a little added on its diagonal. Two forms give
the same numbers. :class:`Dense` has ``H`` and its factor. :class:`Sampled` has the patches
themselves, which is less to compute and to hold where they are few: there what ``H`` does to all
columns goes through one number a patch, and what is left of a block once the columns before it are
free comes from a matrix of patches by patches (the identity of Woodbury).

Columns are asked for in wide blocks. ``H = (F + I)^T D (F + I)`` with F in the upper half: what the
errors behind a column ask of it, if all before it is free (Chee et al., QuIP, arXiv 2307.13304,
equation 2). Shapes: G groups, K columns, R rows a group, B columns of a block, P patches.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float32]
Order = NDArray[np.int64]

#: Share of the mean energy that is added to every weight's own, so that directions that the
#: images do not show stay near nearest rounding (GPTQ adds as much).
DAMPING = 0.01
#: Rows of a large matrix worked on at once.
_BAND = 256


@dataclass(frozen=True)
class Samples:
    """Input patches of a layer without groups, of which there are fewer than weights a channel.

    Attributes:
        patches: ``(P, K) float32``, their mean taken off where the bias takes up the mean error.
    """

    patches: Matrix

    @cached_property
    def gram(self) -> NDArray[np.float64]:
        """``(P, P)`` of the scaled patches, with what is added for each; the order counts not."""
        return _gram(*_scaled(self.patches))


class Objective(Protocol):
    """What the search asks; errors are ``(G, K, R) float32`` in the order of the columns."""

    @property
    def diagonal(self) -> Matrix:
        """``(G, K)`` diagonal of H."""

    def cost(self, error: Matrix) -> NDArray[np.float64]:
        """``(G, R)`` squared output error of each row."""

    def told_cost(self, error: Matrix) -> NDArray[np.float64] | None:
        """The same of the errors that it has been told, where it knows without a product."""

    def begin(self, error: Matrix | None) -> None:
        """Sets out from these errors, or from none."""

    def tell(self, block: slice, change: Matrix) -> None:
        """The errors of a block have changed by ``(G, B, R)``."""

    def behind(self, block: slice, error: Matrix) -> tuple[Matrix, Matrix, Matrix]:
        """``(G, B, R)`` that the errors behind a block ask of it; F ``(G, B, B)``, D ``(G, B)``.

        Blocks are asked for from the last to the first.
        """

    def slopes(self, block: slice, error: Matrix) -> tuple[Matrix, Matrix]:
        """``(G, B, R)`` half the gradient of a block, and its own part of H, ``(G, B, B)``."""


def objective(hessian: Matrix | Samples, order: Order) -> Objective:
    """The form with its columns in this order; an index beyond the last is an unused column."""
    if isinstance(hessian, Samples):
        return Sampled(hessian, order)
    return Dense(hessian, order)


def unexplained(hessian: Matrix | Samples) -> NDArray[np.float64]:
    """``(K,)`` energy of each column that no others explain, summed over groups.

    An error of a column that others explain can be undone by them, so such columns come last when
    columns are rounded one after the other (Wolniansky et al., V-BLAST, ISSSE 1998; GPTQ's order by
    energy does not ask what others explain). It is one over the diagonal of the inverse of H.
    """
    if isinstance(hessian, Samples):
        patches, damping = _scaled(hessian.patches)
        lower = np.linalg.cholesky(hessian.gram)
        solution = _solved(lower, patches)
        remainders = 1.0 - np.einsum("pk,pk->k", solution, solution)
        return np.asarray(damping / np.maximum(remainders, 1e-12), np.float64)
    total = np.zeros(hessian.shape[1])
    for group in hessian:
        # Groups count alike, however large their inputs are.
        energy = float(np.trace(group)) or 1.0
        total += 1.0 / (_inverse_diagonal(group) * energy)
    return total


class Dense:
    """The form of a matrix ``(G, K, K)``."""

    def __init__(self, hessian: Matrix, order: Order) -> None:
        self._hessian = _ordered(hessian, order)
        self._factor, self._worth = _factors(self._hessian)

    @property
    def diagonal(self) -> Matrix:
        """As :meth:`Objective.diagonal`."""
        return np.asarray(np.einsum("gkk->gk", self._hessian))

    def cost(self, error: Matrix) -> NDArray[np.float64]:
        """As :meth:`Objective.cost`."""
        total = np.zeros((len(error), error.shape[2]))
        for begin in range(0, error.shape[1], _BAND):  # of a triangle half the products are zero
            block = slice(begin, begin + _BAND)
            part = self._factor[:, block, begin:] @ error[:, begin:]
            part *= np.sqrt(self._worth[:, block, None])
            total += np.einsum("gkr,gkr->gr", part, part)
        return total

    def told_cost(self, error: Matrix) -> NDArray[np.float64] | None:
        """Not known: the errors are not kept."""
        return None

    def begin(self, error: Matrix | None) -> None:
        """Nothing to do: the errors are given where they are needed."""

    def tell(self, block: slice, change: Matrix) -> None:
        """Nothing to do, likewise."""

    def behind(self, block: slice, error: Matrix) -> tuple[Matrix, Matrix, Matrix]:
        """As :meth:`Objective.behind`."""
        correction = self._factor[:, block, block.stop :] @ error[:, block.stop :]
        return correction, self._factor[:, block, block], self._worth[:, block]

    def slopes(self, block: slice, error: Matrix) -> tuple[Matrix, Matrix]:
        """As :meth:`Objective.slopes`."""
        return self._hessian[:, block] @ error, self._hessian[:, block, block]


class Sampled:
    """The form of few patches ``(P, K)``."""

    def __init__(self, samples: Samples, order: Order) -> None:
        self._samples = samples
        scaled, self._damping = _scaled(samples.patches)
        unused = int((order >= scaled.shape[1]).sum())
        self._patches = np.pad(scaled, ((0, 0), (0, unused)))[:, order]
        self._seen = np.zeros((len(scaled), 0), np.float32)
        self._gram = np.zeros((0, 0))
        self._left = 0

    @property
    def diagonal(self) -> Matrix:
        """As :meth:`Objective.diagonal`."""
        squares = np.einsum("pk,pk->k", self._patches, self._patches)
        return np.asarray(squares + np.float32(self._damping))[None]

    def cost(self, error: Matrix) -> NDArray[np.float64]:
        """As :meth:`Objective.cost`."""
        return self._cost(self._patches @ error[0], error)

    def told_cost(self, error: Matrix) -> NDArray[np.float64] | None:
        """As :meth:`Objective.told_cost`."""
        return self._cost(self._seen, error)

    def _cost(self, output: Matrix, error: Matrix) -> NDArray[np.float64]:
        squares = np.einsum("pr,pr->r", output, output).astype(np.float64)
        return np.asarray(squares + self._damping * np.einsum("kr,kr->r", error[0], error[0]))[None]

    def begin(self, error: Matrix | None) -> None:
        """As :meth:`Objective.begin`."""
        if error is not None:
            self._seen = self._patches @ error[0]
            return
        self._gram = self._samples.gram.copy()
        self._left = self._patches.shape[1]
        self._seen = np.zeros((len(self._patches), 1), np.float32)

    def tell(self, block: slice, change: Matrix) -> None:
        """As :meth:`Objective.tell`."""
        self._seen = self._seen + self._patches[:, block] @ change[0]

    def behind(self, block: slice, error: Matrix) -> tuple[Matrix, Matrix, Matrix]:
        """As :meth:`Objective.behind`."""
        from scipy.linalg import solve_triangular

        here = self._patches[:, block]
        # In float64, since what the blocks behind gave is taken off again.
        self._gram -= _products(self._patches[:, block.start : self._left])
        self._left = block.start
        lower = np.linalg.cholesky(self._gram)
        solution, error_solution = _solved(lower, here), _solved(lower, self._seen)
        own = self._damping * (solution.T @ solution)
        own[np.diag_indices(len(own))] += self._damping
        root = np.linalg.cholesky(own.astype(np.float64)).astype(np.float32)
        cross = np.float32(self._damping) * (solution.T @ error_solution)
        correction = solve_triangular(root, cross, lower=True, check_finite=False)
        edge = np.diagonal(root)
        if correction.shape[1] != error.shape[2]:  # nothing lies behind the last block
            correction = np.zeros((len(correction), error.shape[2]), np.float32)
        correction /= edge[:, None]
        return correction[None], (root.T / edge[:, None])[None], np.square(edge)[None]

    def slopes(self, block: slice, error: Matrix) -> tuple[Matrix, Matrix]:
        """As :meth:`Objective.slopes`."""
        here = self._patches[:, block]
        own = here.T @ here
        own[np.diag_indices(len(own))] += np.float32(self._damping)
        slope = here.T @ self._seen
        slope += np.float32(self._damping) * error[0, block]
        return slope[None], own[None]


def _scaled(patches: Matrix) -> tuple[Matrix, float]:
    """Patches of which the sum of squares is the mean energy, and what is added to each column."""
    scaled = patches / np.float32(np.sqrt(len(patches)))
    energy = float(np.einsum("pk,pk->", scaled, scaled, dtype=np.float64)) / patches.shape[1]
    return scaled, DAMPING * energy if energy > 0.0 else 1.0


def _products(patches: Matrix) -> NDArray[np.float64]:
    """``(P, P)``: each patch times each."""
    wide = patches.astype(np.float64)
    return np.asarray(wide @ wide.T)


def _gram(patches: Matrix, damping: float) -> NDArray[np.float64]:
    gram = _products(patches)
    gram[np.diag_indices(len(gram))] += damping
    return gram


def _solved(lower: NDArray[np.floating[Any]], values: Matrix) -> Matrix:
    from scipy.linalg import solve_triangular

    solution = solve_triangular(lower.astype(np.float32), values, lower=True, check_finite=False)
    return np.asarray(solution, np.float32)


def _damping_of(group: Matrix) -> np.float32:
    energy = float(np.trace(group)) / len(group)
    return np.float32(DAMPING * energy if energy > 0.0 else 1.0)


def _ordered(groups: Matrix, order: Order) -> Matrix:
    """``(G, K, K)`` in this order, with something on the diagonal; unused columns stand alone."""
    columns = groups.shape[1]
    ordered = np.empty((len(groups), len(order), len(order)), np.float32)
    unused = np.flatnonzero(order >= columns)
    diagonal = np.arange(len(order))
    for group, hessian in enumerate(groups):
        # One group at a time: a layer of 4,608 weights a channel has 85 MB.
        own = np.minimum(order, columns - 1)
        np.take(hessian[own], own, axis=1, out=ordered[group], mode="clip")
        if len(unused):
            ordered[group][unused] = 0
            ordered[group][:, unused] = 0
        ordered[group][diagonal, diagonal] += _damping_of(hessian)
    return ordered


def _upper(hessian: Matrix) -> Matrix:
    """``R`` of ``R^T R``, the other half zero; ``hessian`` is written over."""
    from scipy.linalg.lapack import dpotrf, spotrf

    exact = np.diagonal(hessian).copy()
    # To Fortran the upper half is the lower one, and the factor is written where it lies.
    failed = spotrf(hessian.T, lower=1, clean=0, overwrite_a=1)[1]
    if failed:  # rounding took away what damping gave; the lower half is still there
        whole = np.tril(hessian, -1)
        whole = (whole + whole.T).astype(np.float64)
        whole[np.diag_indices(len(whole))] = exact
        hessian[:] = dpotrf(whole.T, lower=1, clean=0)[0].T
    for begin in range(0, len(hessian), _BAND):
        block = slice(begin, begin + _BAND)
        hessian[block, :begin] = 0
        hessian[block, block] = np.triu(hessian[block, block])
    return hessian


def _inverse_diagonal(hessian: Matrix) -> NDArray[np.float64]:
    """Diagonal of the inverse of the damped matrix."""
    from scipy.linalg.lapack import strtri

    damped = hessian.copy()
    damped[np.diag_indices(len(damped))] += _damping_of(hessian)
    inverse = _upper(damped)
    strtri(inverse.T, lower=1, overwrite_c=1)
    return np.asarray(np.einsum("kl,kl->k", inverse, inverse), np.float64)


def _factors(hessian: Matrix) -> tuple[Matrix, Matrix]:
    """Of ``H = (F + I)^T D (F + I)``: F + I ``(G, K, K)``, and D ``(G, K)``."""
    factors = hessian.copy()
    worth = np.empty(hessian.shape[:2], np.float32)
    for group, matrix in enumerate(factors):
        root = np.diagonal(_upper(matrix)).copy()
        np.divide(matrix, root[:, None], out=matrix)
        worth[group] = np.square(root)
    return factors, worth
