"""INT8 weights of one layer: the scale of each output channel by search, saturation-safe if asked.

For every channel a row of candidate scales is tried and the one of least squared output error is
kept. The output error of an error ``d`` in the weights is ``sum_k h_k d_k**2``, with ``h_k`` the
energy of the activation that weight ``k`` multiplies. Where pairs must be saturation-safe, each
candidate is judged after its pairs were moved: a larger scale breaks the rule less often, a smaller
one rounds finer, and the search weighs the two.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgeres.errors import UsageError
from edgeres.graph.layers import Layer
from edgeres.quantization.found_weights import FoundWeights, content_of
from edgeres.quantization.kernel_sums import balance_kernels
from edgeres.quantization.pairing import Pairs, pairings
from edgeres.quantization.saturation import SaturationProof, move_pairs, prove, require_safe
from edgeres.quantization.scales import MIN_SCALE, WEIGHT_LEVELS
from edgeres.sqnr import sqnr_db

#: Candidate scales as multiples of ``max(abs(w)) / 127``, first rough, then around the best. At
#: 127/64 no pair can break the saturation rule: these are the 7-bit weights of other tools.
_ROUGH = (0.70, 0.78, 0.86, 0.92, 0.96, 1.0)
_ROUGH_SAFE = (*_ROUGH, 1.08, 1.18, 1.30, 1.45, 1.62, 1.80, 127 / 64)
_FINE = (0.96, 0.98, 0.99, 1.01, 1.02, 1.04)
#: A bound below this part of the full-range scale is below every candidate.
_UNHEARD = 0.6
_BLOCK_NUMBERS = 1 << 18
_FOUND = FoundWeights()


@dataclass(frozen=True)
class QuantizedWeight:
    """The INT8 weight of one layer.

    Attributes:
        values: ``(M, K) int8`` in -127..127.
        scales: ``(M,) float32``, or ``(1,)`` for one scale for the whole tensor.
        dead_channels: Output channels whose weights are all zero or too small for any scale.
        proof: Bound over all pairs; for weights that were not made safe it may be unsafe.
        sqnr_db: Signal to quantization noise of the weights, in dB; ``inf`` where exact.
        importance: ``(M, K)`` or ``(1, K) float32`` weight of each squared error; empty where
            unknown.
    """

    values: NDArray[np.int8]
    scales: NDArray[np.float32]
    dead_channels: tuple[int, ...]
    proof: SaturationProof
    sqnr_db: float
    importance: NDArray[np.float32] = field(default_factory=lambda: np.ones((0, 0), np.float32))

    @property
    def dequantized(self) -> NDArray[np.float32]:
        """``(M, K) float32`` weights that the engine computes with."""
        return self.values.astype(np.float32) * self.scales[:, None]


@dataclass(frozen=True)
class _Found:
    values: NDArray[np.int8]
    scales: NDArray[np.float32]
    proof: SaturationProof
    sqnr_db: float

    @property
    def nbytes(self) -> int:
        return self.values.nbytes + self.scales.nbytes


def quantize_weight(
    layer: Layer,
    *,
    per_channel: bool = True,
    least_scales: NDArray[np.float64] | None = None,
    least_scale: float = MIN_SCALE,
    energy: NDArray[np.float32] | None = None,
    saturating: bool = False,
    scales: NDArray[np.float32] | None = None,
    balanced: bool = True,
) -> QuantizedWeight:
    """Quantizes the weight of a layer to INT8.

    Args:
        layer: The layer.
        per_channel: One scale per output channel, or one for the tensor.
        least_scales: ``(M,)`` lower bounds, so that an INT32 bias cannot overflow.
        least_scale: Smallest scale that the engine can hold.
        energy: ``(C,)`` mean square (or variance, where the mean error is corrected in the bias)
            of each input channel; ``None`` weighs all alike.
        saturating: Make all pairs safe.
        scales: ``(M,)`` or ``(1,)`` scales to take as they are, e.g. learned ones; ``None``
            searches.
        balanced: Let the taps of a kernel make good for each other; learned rounding does more.

    Raises:
        UsageError: ``energy``, ``least_scales`` or ``scales`` does not fit the layer.
        StageError: The result is not safe (never expected).
    """
    rows, columns = layer.weight.shape
    packings = pairings(columns, layer.kernel)
    importance = _importance(layer, energy)
    floor = np.full(rows, least_scale)
    if least_scales is not None:
        if least_scales.shape != (rows,):
            raise UsageError(f"{layer.name} has {rows} channels, got {least_scales.shape} scales.")
        floor = np.maximum(floor, least_scales)
    peak = np.abs(layer.weight).max(axis=1, initial=0.0).astype(np.float64)
    dead = peak < WEIGHT_LEVELS * least_scale
    used = packings if saturating else ()
    if scales is not None and scales.shape != ((rows,) if per_channel else (1,)):
        raise UsageError(f"{layer.name} has {rows} channels, got {scales.shape} scales.")

    def find() -> _Found:
        if scales is not None:
            found = np.broadcast_to(scales, (rows,))
        elif per_channel:
            base = _base(peak, dead, floor, layer.bias)
            found = _search_rows(layer.weight, importance, base, floor, used)
        else:
            found = _search_tensor(layer.weight, importance, peak, floor, used)
        whole, moved = whole_weights(layer.weight, found[:, None], importance, used)
        if balanced and scales is None:  # what training learned stays as it was trained
            exact = layer.weight / found[:, None]
            taps = math.prod(layer.kernel)
            balance_kernels(whole, exact, importance, used, taps=taps, limit=WEIGHT_LEVELS)
        values = whole.astype(np.int8)
        proof = prove(values, packings, moved=moved)
        values.flags.writeable = found.flags.writeable = False  # several files may share them
        return _Found(values, found, proof, sqnr_db(layer.weight, whole * found[:, None]))

    unheard = ~dead & (floor < _UNHEARD * peak / WEIGHT_LEVELS)
    key = content_of(
        *(layer.weight, layer.kernel, layer.groups, energy),
        *(layer.bias if dead.any() else None, dead, np.where(unheard, 0.0, floor)),
        *(per_channel, saturating, scales, balanced),
    )
    found = _FOUND.get(key, find)
    if saturating:
        require_safe(layer.name, found.proof)
    return QuantizedWeight(
        values=found.values,
        scales=found.scales if per_channel else found.scales[:1],
        dead_channels=tuple(int(channel) for channel in np.flatnonzero(dead)),
        proof=found.proof,
        sqnr_db=found.sqnr_db,
        importance=importance,
    )


def whole_weights(
    weight: NDArray[np.float32],
    scales: NDArray[np.float32],
    importance: NDArray[np.float32],
    packings: Sequence[Pairs],
) -> tuple[NDArray[np.float32], int]:
    """Integers of a weight matrix at given scales.

    Args:
        weight: ``(M, K) float32``.
        scales: ``(M, 1)`` or ``(1, 1) float32``.
        importance: ``(M, K)`` or ``(1, K) float32`` weight of each squared error, for moving pairs.
        packings: Pairs that must be saturation-safe; none for plain rounding.

    Returns:
        ``(M, K) float32`` whole numbers in -127..127, and how many were moved off the nearest one.
    """
    exact = weight / scales
    whole = _rounded(exact)
    return whole, move_pairs(whole, exact, importance, packings)


def _importance(layer: Layer, energy: NDArray[np.float32] | None) -> NDArray[np.float32]:
    """``(M, K)`` or ``(1, K)``: the input channel's energy for every weight, mean 1."""
    rows, columns = layer.weight.shape
    positions = int(np.prod(layer.kernel, dtype=np.int64)) if layer.kernel else 1
    if energy is None:
        return np.ones((1, columns), np.float32)
    expected = columns // positions * layer.groups
    if energy.shape != (expected,):
        raise UsageError(f"{layer.name} reads {expected} channels, got {energy.shape} energies.")
    mean = float(energy.mean())
    if not mean > 0.0:
        return np.ones((1, columns), np.float32)
    # A channel that was silent in calibration still weighs a little.
    weighting = np.maximum(energy / mean, 1e-3).astype(np.float32)
    by_group = np.repeat(weighting.reshape(layer.groups, -1), positions, axis=1)
    return np.repeat(by_group, rows // layer.groups, axis=0) if layer.groups > 1 else by_group


def _base(
    peak: NDArray[np.float64],
    dead: NDArray[np.bool_],
    floor: NDArray[np.float64],
    bias: NDArray[np.float32] | None,
) -> NDArray[np.float64]:
    """Full-range scale per channel.

    A dead one gets a very small one: engines store its bias, or what the bias correction makes of
    its weights, in steps of ``s_x * s_w``, and nothing else makes its output. Where it has no
    output, it gets the median of the living.
    """
    alive = peak[~dead]
    substitute = float(np.median(alive)) if alive.size else 1.0
    base = np.where(dead, substitute, peak) / WEIGHT_LEVELS
    silent = (peak == 0.0) & (True if bias is None else bias == 0.0)
    least = np.maximum(floor, min(substitute / WEIGHT_LEVELS, 2 * MIN_SCALE))
    return np.where(dead & ~silent, least, base)


def _search_rows(
    weight: NDArray[np.float32],
    importance: NDArray[np.float32],
    base: NDArray[np.float64],
    floor: NDArray[np.float64],
    packings: tuple[Pairs, ...],
) -> NDArray[np.float32]:
    """Best scale of each row, in blocks of rows that stay in the cache."""
    scales = np.empty(len(weight), np.float32)
    step = max(1, _BLOCK_NUMBERS // weight.shape[1])
    for start in range(0, len(weight), step):
        block = slice(start, start + step)
        weighting = importance if len(importance) == 1 else importance[block]
        best = np.full(len(weight[block]), np.inf)
        block_scales = np.maximum(base[block], floor[block]).astype(np.float32)
        for factors in (_ROUGH_SAFE if packings else _ROUGH, _FINE):
            centre = base[block] if factors is not _FINE else block_scales.astype(np.float64)
            trials = np.stack([np.maximum(centre * factor, floor[block]) for factor in factors])
            _better_of(
                weight[block], weighting, trials.astype(np.float32), packings, best, block_scales
            )
        scales[block] = block_scales
    return scales


def _better_of(
    weight: NDArray[np.float32],
    importance: NDArray[np.float32],
    trials: NDArray[np.float32],
    packings: tuple[Pairs, ...],
    best: NDArray[np.float64],
    scales: NDArray[np.float32],
) -> None:
    """Takes the ``(F, R)`` scales that are better than the best so far, in place.

    Moving pairs is what costs, and it only adds error. So each row's scales are tried in the order
    of their error before, until that of the next is no better than the best after.
    """
    errors = np.stack([_errors(weight, importance, trial, ()) for trial in trials])
    for _ in trials:
        first = errors.argmin(axis=0)
        rows = np.flatnonzero(errors.min(axis=0) < best)
        if not rows.size:
            return
        picked = first[rows]
        trial = trials[picked, rows]
        if packings:
            weighting = importance if len(importance) == 1 else importance[rows]
            error = _errors(weight[rows], weighting, trial, packings)
        else:
            error = errors[picked, rows]
        errors[picked, rows] = np.inf
        better = error < best[rows]
        best[rows[better]], scales[rows[better]] = error[better], trial[better]


def _search_tensor(
    weight: NDArray[np.float32],
    importance: NDArray[np.float32],
    peak: NDArray[np.float64],
    floor: NDArray[np.float64],
    packings: tuple[Pairs, ...],
) -> NDArray[np.float32]:
    """Best single scale, repeated for every row."""
    base = (float(peak.max(initial=0.0)) or 1.0) / WEIGHT_LEVELS
    least = float(floor.max())
    best, scale = np.inf, np.float32(max(base, least))
    for factors in (_ROUGH_SAFE if packings else _ROUGH, _FINE):
        centre = base if factors is not _FINE else float(scale)
        for factor in factors:
            trial = np.full(len(weight), max(centre * factor, least), np.float32)
            error = float(_errors(weight, importance, trial, packings).sum())
            if error < best:
                best, scale = error, trial[0]
    return np.full(len(weight), scale, np.float32)


def _errors(
    weight: NDArray[np.float32],
    importance: NDArray[np.float32],
    scales: NDArray[np.float32],
    packings: tuple[Pairs, ...],
) -> NDArray[np.float64]:
    """Weighted squared error of each row at these scales, after moving its pairs."""
    exact = weight / scales[:, None]
    whole = _rounded(exact)
    if packings:
        move_pairs(whole, exact, importance, packings)
    # In place from here: a search does this a dozen times, and fresh memory costs more than sums.
    difference = np.subtract(whole, exact, out=exact)
    weighted = np.multiply(difference, importance, out=whole)
    error = np.einsum("ij,ij->i", weighted, difference)
    return np.asarray(error.astype(np.float64) * scales.astype(np.float64) ** 2)


def _rounded(exact: NDArray[np.float32]) -> NDArray[np.float32]:
    whole = np.rint(exact)
    return np.clip(whole, -WEIGHT_LEVELS, WEIGHT_LEVELS, out=whole)
