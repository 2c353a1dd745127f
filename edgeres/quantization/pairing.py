"""Which two products share an int16 on x86 without VNNI, as pairs of columns of a weight matrix.

``vpmaddubsw`` multiplies unsigned activations with signed weights and adds two neighbouring
products into one int16. Which products are neighbours depends on how an engine packs its weights;
these are the packings of the CPU engines, found by probing single weights:

1. input channels (2i, 2i+1) at the same kernel position (an odd last channel stands alone);
2. neighbours in the flattened (kernel row, kernel column, channel) order;
3. with one channel, neighbours within each kernel row (AVX-512 without VNNI);
4. neighbours within each half of a dense layer's K (OpenVINO, which cuts 257 to 511 columns in two
   and begins to pair anew; where the first half is odd these are other pairs).

With an even channel count both are the same pairs. With an odd one an engine may use either, so
weights are made safe under both. Dense layers pair along K, which is the same rule with one kernel
position. Where kernels for other CPUs cut is not known, so longer layers are made safe for halves,
too.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Pairs = NDArray[np.int64]
_UNCUT = 256
"""Columns of a dense layer that no engine cuts."""


def pairings(columns: int, kernel: Sequence[int]) -> tuple[Pairs, ...]:
    """All packings that some engine may use for a layer.

    Args:
        columns: K, the number of weights of one output channel.
        kernel: Spatial kernel shape, empty for a dense layer.

    Returns:
        One ``(P, 2) int64`` array a packing, of indices into the columns in (channel, kernel
        position) order; within a packing every column occurs at most once. Packings without a
        pair are left out.
    """
    positions = int(np.prod(kernel, dtype=np.int64)) if len(kernel) else 1
    channels = columns // positions
    order = np.arange(columns, dtype=np.int64).reshape(channels, positions)
    even = channels - channels % 2
    by_channel = np.stack([order[0:even:2].reshape(-1), order[1:even:2].reshape(-1)], axis=1)
    flat = order.T.reshape(-1)
    paired = columns - columns % 2
    by_neighbour = flat[:paired].reshape(-1, 2)
    packings = [by_channel] if channels % 2 == 0 else [by_channel, by_neighbour]
    if channels == 1 and len(kernel) > 1:
        rows = order.reshape(-1, kernel[-1])
        width = kernel[-1] - kernel[-1] % 2
        packings.append(rows[:, :width].reshape(-1, 2))
    half = (columns + 1) // 2
    if not len(kernel) and columns > _UNCUT and half % 2:
        parts = (order[: half - 1].reshape(-1, 2), order[half : columns - (columns - half) % 2])
        packings.append(np.concatenate([part.reshape(-1, 2) for part in parts]))
    return tuple(pairs for pairs in packings if len(pairs))
