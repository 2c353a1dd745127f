"""Resizing without antialiasing, as networks know it that were trained on tensors or with OpenCV.

Each new pixel is made of the two (bilinear) or four (bicubic) old ones around its centre, however
many lie between two new ones. The numbers are those of ``torch.nn.functional.interpolate`` with
``align_corners=False``, rounded to 8 bits as torchvision does for a tensor: bicubic has
``a = -0.75`` (R. Keys, IEEE Trans. ASSP 29, 1981), where Pillow's has -0.5.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
_A = -0.75


def resize_plain(pixels: NDArray[np.uint8], size: tuple[int, int], taps: int) -> NDArray[np.uint8]:
    """Resizes without antialiasing.

    Args:
        pixels: ``(H, W)`` or ``(H, W, C)``.
        size: Height and width that are wanted.
        taps: Old pixels for each new one and axis: 2 for bilinear, 4 for bicubic.

    Returns:
        ``(H', W')`` or ``(H', W', C) uint8``.
    """
    rows, columns = (
        _places(before, after, taps) for before, after in zip(pixels.shape, size, strict=False)
    )
    across = _weighted(pixels.astype(np.float32), *columns, axis=1)
    both = _weighted(across, *rows, axis=0)
    return np.clip(np.rint(both), 0, 255).astype(np.uint8)


def _weighted(values: F32, places: NDArray[np.int64], weights: F32, axis: int) -> F32:
    shape = [1] * values.ndim
    shape[axis] = -1
    parts = [
        np.take(values, places[:, tap], axis=axis) * weights[:, tap].reshape(shape)
        for tap in range(places.shape[1])
    ]
    return np.asarray(sum(parts[1:], parts[0]), dtype=np.float32)


def _places(before: int, after: int, taps: int) -> tuple[NDArray[np.int64], F32]:
    """Old pixels of each new one and what they weigh, ``(after, taps)`` each."""
    centre = (np.arange(after) + 0.5) * (before / after) - 0.5
    if taps == 2:
        centre = np.maximum(centre, 0.0)
    first = np.floor(centre).astype(np.int64)
    part = centre - first
    if taps == 2:
        weights = np.stack([1 - part, part], axis=1)
        places = first[:, None] + np.arange(2)
    else:
        weights = np.stack([_far(part + 1), _near(part), _near(1 - part), _far(2 - part)], axis=1)
        places = first[:, None] + np.arange(-1, 3)
    return np.clip(places, 0, before - 1), weights.astype(np.float32)


def _near(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' kernel for distances up to 1."""
    return np.asarray(((_A + 2) * x - (_A + 3)) * x * x + 1)


def _far(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' kernel for distances from 1 to 2."""
    return np.asarray(((_A * x - 5 * _A) * x + 8 * _A) * x - 4 * _A)
