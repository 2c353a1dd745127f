"""Weights of a kernel make good for each other: neighbouring pixels are alike.

The taps of a kernel multiply nearly the same value wherever the image is smooth, so what counts of
the errors ``d`` of a kernel's taps is their sum more than their squares: with a correlation ``r``
between the taps' inputs the error of the output is ``(1 - r) sum(d**2) + r sum(d)**2``. Rounding to
the nearest integer leaves sums that are far from zero, and moving pairs for the sake of int16 sums
even more. Here the other taps of the kernel take the sum back.

After SQuant (Guo et al., "On-the-Fly Data-Free Quantization via Diagonal Hessian Approximation",
ICLR 2022, arXiv 2202.07471), which flips roundings until the sums of kernels and rows vanish.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgeres.quantization.pairing import Pairs
from edgeres.quantization.saturation import move_pairs

#: Correlation between the inputs of a kernel's taps that is reckoned with.
CORRELATION = 0.6
_ROUNDS = 3
_BLOCK_NUMBERS = 1 << 18


def balance_kernels(
    whole: NDArray[np.float32],
    exact: NDArray[np.float32],
    importance: NDArray[np.float32],
    packings: Sequence[Pairs],
    *,
    taps: int,
    limit: int,
) -> None:
    """Changes integers, in place, so that the errors of each kernel nearly add up to zero.

    Args:
        whole: ``(M, K) float32`` integers that obey the packings; they still do afterwards.
        exact: ``(M, K) float32`` weights divided by the scale.
        importance: ``(M, K)`` or ``(1, K)`` weight of each squared error, for moving pairs.
        packings: Pairs that must be saturation-safe; none for plain rounding.
        taps: Positions of a kernel; columns of one input channel stand together.
        limit: Largest magnitude of an integer.
    """
    if taps < 2:
        return
    step = max(1, _BLOCK_NUMBERS // whole.shape[1])  # rows that stay in the cache
    for start in range(0, len(whole), step):
        rows = slice(start, start + step)
        weighting = importance if len(importance) == 1 else importance[rows]
        _balance(whole[rows], exact[rows], weighting, packings, taps, limit)


def _balance(
    whole: NDArray[np.float32],
    exact: NDArray[np.float32],
    importance: NDArray[np.float32],
    packings: Sequence[Pairs],
    taps: int,
    limit: int,
) -> None:
    kernels = (len(whole), whole.shape[1] // taps, taps)
    shift = np.zeros_like(whole).reshape(kernels)
    for _ in range(_ROUNDS):
        off = (whole - exact).reshape(kernels)
        # A tap that was moved on purpose stays; the others share what its kernel lacks.
        free = np.abs(off - shift) <= 0.75
        count = free.sum(axis=2, keepdims=True)
        sums = off.sum(axis=2)
        lack = CORRELATION * sums[:, :, None]
        shift = np.where(free, shift - lack / (1 - CORRELATION + CORRELATION * count), 0)
        target = exact + shift.reshape(exact.shape)
        trial = np.clip(np.rint(target), -limit, limit)
        trial = np.where(free.reshape(exact.shape), trial, whole)
        move_pairs(trial, target, importance, packings)
        tried = (trial - exact).reshape(kernels)
        better = _cost(tried, tried.sum(axis=2)) < _cost(off, sums)
        np.copyto(whole, trial, where=np.repeat(better, taps, axis=1))
        move_pairs(whole, exact, importance, packings)  # a kernel and its partner may disagree


def _cost(off: NDArray[np.float32], sums: NDArray[np.float32]) -> NDArray[np.float32]:
    """``(M, C)`` output error of each kernel, of the errors of its taps and of their sums."""
    squares = np.einsum("mct,mct->mc", off, off)
    return np.asarray((1 - CORRELATION) * squares + CORRELATION * np.square(sums), np.float32)
