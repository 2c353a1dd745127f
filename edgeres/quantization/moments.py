"""Second moments of what a layer reads: how errors in two of its weights add up in its output.

An error ``d`` in the weights of an output channel makes an output error ``d . x`` at a position
whose input patch is ``x``; on average over positions its square is ``d^T E[x x^T] d``. Where the
mean error goes into the bias, only the covariance counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from edgeres.errors import UsageError
from edgeres.quantization import graph as graphs
from edgeres.quantization.graph import Layer

#: Patches taken of one layer, at most; few layers need more than some times their K.
MAX_PATCHES = 16384
#: Patches of which the products of 8-bit integers add up exactly in float32: 258 * 255**2 < 2**24.
_EXACT_PATCHES = 258


@dataclass(frozen=True)
class Moments:
    """First and second moments of the input patches of a layer.

    Attributes:
        mean: ``(G, K) float64`` mean patch of each group.
        second: ``(G, K, K) float64`` mean of ``x x^T``.
        patches: Number of patches.
    """

    mean: NDArray[np.float64]
    second: NDArray[np.float64]
    patches: int

    def covariance(self) -> NDArray[np.float64]:
        """``(G, K, K) float64``: what is left where the mean error is mended in the bias."""
        return np.asarray(self.second - self.mean[:, :, None] * self.mean[:, None, :])


def patch_moments(
    layer: Layer, images: NDArray[np.float32], *, limit: int = MAX_PATCHES
) -> Moments:
    """Moments of the patches that a layer multiplies its weights with.

    Args:
        layer: The layer.
        images: ``(N, C, H, W)`` or ``(N, C) float32`` input of the layer as whole numbers with
            magnitude up to 255 (quantized, zero point subtracted): then the sums are exact.
        limit: Most patches; of more, a fixed random choice is taken.

    Raises:
        UsageError: The input does not fit the layer.
    """
    windows = _windows(layer, images)
    count, height, width = windows.shape[:3]
    total = count * height * width
    chosen = np.arange(total)
    if total > limit:
        chosen = np.sort(np.random.default_rng(0).choice(total, limit, replace=False))
    columns = layer.weight.shape[1]
    first = np.zeros((layer.groups, columns))
    second = np.zeros((layer.groups, columns, columns))
    for start in range(0, len(chosen), _EXACT_PATCHES):
        at = np.unravel_index(chosen[start : start + _EXACT_PATCHES], (count, height, width))
        patches = windows[at].reshape(-1, layer.groups, columns)
        first += patches.sum(axis=0, dtype=np.float64)
        for group in range(layer.groups):
            part = np.ascontiguousarray(patches[:, group])
            second[group] += part.T @ part
    return Moments(first / len(chosen), second / len(chosen), len(chosen))


def _windows(layer: Layer, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """``(N, OH, OW, C, KH, KW)`` view of all patches; a dense layer has one position."""
    channels = layer.weight.shape[1] * layer.groups // int(np.prod(layer.kernel, dtype=np.int64))
    rank = len(layer.kernel)
    if images.ndim != 2 + rank or images.shape[1] != channels or rank not in (0, 2):
        raise UsageError(
            f"{layer.name} reads {channels} channels in {rank} dimensions, got {images.shape}."
        )
    if rank == 0:
        return images[:, None, None, :]
    pads = graphs.ints_attribute(layer.node, "pads", (0, 0, 0, 0))
    strides = graphs.ints_attribute(layer.node, "strides", (1, 1))
    dilations = graphs.ints_attribute(layer.node, "dilations", (1, 1))
    padded = np.pad(images, ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])))
    reach = tuple(d * (k - 1) + 1 for d, k in zip(dilations, layer.kernel, strict=True))
    windows = sliding_window_view(padded, reach, axis=(2, 3))
    windows = windows[:, :, :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]]
    return windows.transpose(0, 2, 3, 1, 4, 5)
