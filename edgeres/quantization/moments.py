"""Second moments of what a layer reads: how errors in two of its weights add up in its output.

An error ``d`` in the weights of an output channel makes an output error ``d . x`` at a position
whose input patch is ``x``; on average over positions its square is ``d^T E[x x^T] d``. Where the
mean error goes into the bias, only the covariance counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeres.errors import UsageError
from edgeres.graph.layers import Layer

Matrix = NDArray[np.float32]

#: Patches taken of one layer, at most; few layers need more than some times their K.
MAX_PATCHES = 16384
#: Images of which the padded input is made at once, and numbers of the patches taken of them.
_IMAGES = 8
_NUMBERS = 1 << 22
#: Weights of a channel for each patch from which on patches are less to compute with.
_FEW = 4
#: Rows of a large matrix worked on at once.
_BAND = 256


@dataclass(frozen=True)
class Moments:
    """First and second moments of the input patches of a layer.

    Attributes:
        mean: ``(G, K) float64`` mean patch of each group.
        second: ``(G, K, K) float32`` mean of ``x x^T``.
        patches: Number of patches.
    """

    mean: NDArray[np.float64]
    second: Matrix
    patches: int

    def covariance(self) -> Matrix:
        """``(G, K, K) float32``: what is left where the mean error is mended in the bias."""
        covariance = self.second.copy()
        for products, mean in zip(covariance, self.mean.astype(np.float32), strict=True):
            for begin in range(0, len(mean), _BAND):
                band = slice(begin, begin + _BAND)
                products[band] -= np.outer(mean[band], mean)
        return covariance


def patch_moments(
    layer: Layer, images: NDArray[np.generic], *, zero: int = 0, limit: int = MAX_PATCHES
) -> Moments:
    """Moments of the patches that a layer multiplies its weights with.

    Args:
        layer: The layer.
        images: ``(N, C, H, W)`` or ``(N, C)`` quantized input of the layer: whole numbers of any
            type, with magnitude up to 255.
        zero: Zero point, taken from all of them.
        limit: Most patches; of more, a fixed random choice is taken.

    Raises:
        UsageError: The input does not fit the layer.
    """
    _check_input(layer, images)
    sizes = _positions(layer, images[:1], zero)[2]
    total = len(images) * int(np.prod(sizes))
    patch_indices = np.arange(total)
    if total > limit:
        patch_indices = np.sort(np.random.default_rng(0).choice(total, limit, replace=False))
    columns = layer.weight.shape[1]
    first = np.zeros((layer.groups, columns))
    second = np.zeros((layer.groups, columns, columns), np.float32)
    step = max(1, _NUMBERS // (layer.groups * columns))
    for begin in range(0, len(images), _IMAGES):
        padded, taps, sizes = _positions(layer, images[begin : begin + _IMAGES], zero)
        image = int(np.prod(sizes))
        ends = np.searchsorted(patch_indices, np.array([begin, begin + _IMAGES]) * image)
        for start in range(ends[0], ends[1], step):
            here = patch_indices[start : min(start + step, ends[1])] - begin * image
            patches = _gathered(padded, taps, np.unravel_index(here, (len(padded), *sizes)), layer)
            _add_products(first, second, patches.reshape(len(here), layer.groups, columns))
    for products in second:
        _mirror(products)
    return Moments(
        first / len(patch_indices),
        np.divide(second, len(patch_indices), out=second),
        len(patch_indices),
    )


def few_patches(layer: Layer, images: NDArray[np.generic], *, zero: int = 0) -> Matrix | None:
    """``(P, K) float32`` all patches, where they are so few that their moments say no more.

    Args:
        layer: The layer.
        images: ``(N, C, H, W)`` or ``(N, C)`` quantized input of the layer.
        zero: Zero point, taken from all of them.

    Returns:
        The patches, or ``None`` for layers with groups, with some patches for each weight of a
        channel, or with more patches than :data:`MAX_PATCHES`.

    Raises:
        UsageError: The input does not fit the layer.
    """
    _check_input(layer, images)
    columns = layer.weight.shape[1]
    sizes = _positions(layer, images[:1], zero)[2]
    count = len(images) * int(np.prod(sizes))
    if layer.groups > 1 or count > min(MAX_PATCHES, columns // _FEW):
        return None
    patches = np.empty((count, columns), np.float32)
    image = int(np.prod(sizes))
    for begin in range(0, len(images), _IMAGES):
        padded, taps, sizes = _positions(layer, images[begin : begin + _IMAGES], zero)
        at = np.unravel_index(np.arange(len(padded) * image), (len(padded), *sizes))
        some = _gathered(padded, taps, at, layer)
        patches[begin * image :][: len(some)] = some.reshape(len(some), columns)
    return patches


def _add_products(first: NDArray[np.float64], second: Matrix, patches: Matrix) -> None:
    """Adds sums of ``(P, G, K)`` whole numbers; of squares the lower half."""
    from scipy.linalg.blas import ssyrk

    first += patches.sum(axis=0, dtype=np.float64)
    if len(second) > 1:
        by_group = np.ascontiguousarray(patches.swapaxes(0, 1))
        second += by_group.swapaxes(1, 2) @ by_group
        return
    # One half of a symmetric matrix, added where it lies: 4,608 columns have 85 MB.
    ssyrk(1.0, patches[:, 0].T, beta=1.0, c=second[0].T, overwrite_c=1)


def _mirror(products: Matrix) -> None:
    """Copies the lower half of a matrix onto the upper one, piece by piece."""
    for begin in range(0, len(products), _BAND):
        block = slice(begin, begin + _BAND)
        inner = np.tril(products[block, block])
        products[block, block] = inner + np.tril(inner, -1).T
        products[block, begin + _BAND :] = products[begin + _BAND :, block].T


def has_patches(layer: Layer, images: NDArray[np.generic]) -> bool:
    """Whether moments of a layer's input are taken: of 2-D convolutions and plain vectors."""
    return len(layer.kernel) in (0, 2) and images.ndim == 2 + len(layer.kernel)


def _check_input(layer: Layer, images: NDArray[np.generic]) -> None:
    channels = layer.weight.shape[1] * layer.groups // int(np.prod(layer.kernel, dtype=np.int64))
    if not has_patches(layer, images) or images.shape[1] != channels:
        raise UsageError(
            f"{layer.name} reads {channels} channels in {len(layer.kernel)} dimensions, "
            f"got {images.shape}."
        )


def _positions(
    layer: Layer, images: NDArray[np.generic], zero: int
) -> tuple[NDArray[np.int16], list[tuple[int, int]], tuple[int, int]]:
    """Padded images, channels last, where the kernel's taps lie in them, and output sizes."""
    whole = images.astype(np.int16)
    whole -= np.int16(zero)
    if not layer.kernel:
        return whole[:, None, None, :], [(0, 0)], (1, 1)
    pads = layer.node.attributes.get_ints("pads", (0, 0, 0, 0))
    strides = layer.node.attributes.get_ints("strides", (1, 1))
    dilations = layer.node.attributes.get_ints("dilations", (1, 1))
    count, channels, height, width = images.shape
    tall, wide = height + pads[0] + pads[2], width + pads[1] + pads[3]
    padded = np.zeros((count, tall, wide, channels), np.int16)
    padded[:, pads[0] : pads[0] + height, pads[1] : pads[1] + width] = whole.transpose(0, 2, 3, 1)
    reach = [d * (k - 1) + 1 for d, k in zip(dilations, layer.kernel, strict=True)]
    sizes = ((tall - reach[0]) // strides[0] + 1, (wide - reach[1]) // strides[1] + 1)
    taps = [
        (row * dilations[0], column * dilations[1])
        for row in range(layer.kernel[0])
        for column in range(layer.kernel[1])
    ]
    return padded, taps, sizes


def _gathered(
    padded: NDArray[np.int16],
    taps: list[tuple[int, int]],
    at: tuple[NDArray[np.intp], ...],
    layer: Layer,
) -> Matrix:
    """``(P, C, kernel positions) float32`` patches; whole rows of channels are read at once."""
    strides = layer.node.attributes.get_ints("strides", (1, 1)) if layer.kernel else (1, 1)
    image, row, column = at
    patches = np.empty((len(image), padded.shape[-1], len(taps)), np.float32)
    for index, (down, right) in enumerate(taps):
        patches[:, :, index] = padded[image, row * strides[0] + down, column * strides[1] + right]
    return patches
