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
from edgeres.graph import layers as graphs
from edgeres.graph.layers import Layer

#: Patches taken of one layer, at most; few layers need more than some times their K.
MAX_PATCHES = 16384
#: Images of which the padded input is made at once, and numbers of the patches taken of them.
_IMAGES = 8
_NUMBERS = 1 << 22


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
        left = np.einsum("gk,gl->gkl", self.mean, self.mean)
        np.subtract(self.second, left, out=left)
        return np.asarray(left)


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
    height, width = _windows(layer, images[:1]).shape[1:3]
    total = len(images) * height * width
    chosen = np.arange(total)
    if total > limit:
        chosen = np.sort(np.random.default_rng(0).choice(total, limit, replace=False))
    columns = layer.weight.shape[1]
    first = np.zeros((layer.groups, columns))
    second = np.zeros((layer.groups, columns, columns))
    step = max(1, _NUMBERS // (layer.groups * columns))
    for begin in range(0, len(images), _IMAGES):
        windows = _windows(layer, images[begin : begin + _IMAGES])
        ends = np.searchsorted(chosen, np.array([begin, begin + _IMAGES]) * height * width)
        for start in range(ends[0], ends[1], step):
            here = chosen[start : min(start + step, ends[1])] - begin * height * width
            patches = windows[np.unravel_index(here, windows.shape[:3])]
            by_group = patches.reshape(len(here), layer.groups, columns).swapaxes(0, 1)
            _add_products(first, second, by_group.astype(np.float64))
    for products in second:
        _mirror(products)
    return Moments(first / len(chosen), np.divide(second, len(chosen), out=second), len(chosen))


def _add_products(
    first: NDArray[np.float64], second: NDArray[np.float64], patches: NDArray[np.float64]
) -> None:
    """Adds sums of ``(G, P, K)`` whole numbers, exact in float64; of squares the lower half."""
    from scipy.linalg.blas import dsyrk

    first += patches.sum(axis=1)
    if len(patches) > 1:
        second += patches.swapaxes(1, 2) @ patches
        return
    # One half of a symmetric matrix, added where it lies: 4,608 columns have 170 MB.
    dsyrk(1.0, patches[0].T, beta=1.0, c=second[0].T, overwrite_c=1)


def _mirror(products: NDArray[np.float64], width: int = 256) -> None:
    """Copies the lower half of a matrix onto the upper one, piece by piece."""
    for begin in range(0, len(products), width):
        block = slice(begin, begin + width)
        inner = np.tril(products[block, block])
        products[block, block] = inner + np.tril(inner, -1).T
        products[block, begin + width :] = products[begin + width :, block].T


def has_patches(layer: Layer, images: NDArray[np.float32]) -> bool:
    """Whether moments of a layer's input are taken: of 2-D convolutions and plain vectors."""
    return len(layer.kernel) in (0, 2) and images.ndim == 2 + len(layer.kernel)


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
