"""What goes into an engine and what comes out of it, checked at each call of a session.

An engine answers anything: pixels that were never normalized, numbers that are none. The answers
look like any others, so what cannot be right is refused on the way in, and on the way out.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeres.backends.base import Array
from edgeres.backends.classifier import check_images
from edgeres.data.preprocess import Preprocess
from edgeres.errors import DataError, StageError
from edgeres.graph.summary import TensorSpec

_BEYOND = 0.25  # of the range of normalized pixels: what resizing by another program overshoots
_HINT = (
    "infer() takes what session.preprocess gives; use classify() for paths, bytes, Pillow images "
    "and 8-bit pixels."
)


def check_preprocessed(source: TensorSpec, preprocess: Preprocess, images: Array) -> None:
    """Refuses what cannot have come out of the preprocessing.

    Args:
        source: The engine's input.
        preprocess: How an image becomes numbers.
        images: What was given.

    Raises:
        DataError: No array of floats in the engine's shape, NaN or Inf, or numbers that no image
            has after normalization, such as raw pixels.
    """
    wanted = np.dtype(source.dtype)
    floats = isinstance(images, np.ndarray) and images.dtype.kind == "f"
    if not isinstance(images, np.ndarray) or (images.dtype != wanted and not floats):
        got = images.dtype if isinstance(images, np.ndarray) else type(images).__name__
        kind = "normalized floats" if wanted.kind == "f" else f"{wanted}, or the same as floats"
        raise DataError(f"expected an array of {kind}, got {got}.", hint=_HINT)
    check_images(source, images)
    if images.size == 0:
        raise DataError(f"expected at least one image, got {images.shape}.", hint=_HINT)
    if not floats:
        return
    smallest, largest = float(images.min()), float(images.max())  # NaN comes through both
    if not (np.isfinite(smallest) and np.isfinite(largest)):
        broken = np.flatnonzero(~np.isfinite(images.reshape(len(images), -1)).all(axis=1))
        raise DataError(
            f"image {broken[0]} has NaN or Inf ({len(broken)} of {len(images)} images).", hint=_HINT
        )
    low, high = preprocess.value_range
    spare = _BEYOND * (high - low)
    if smallest < low - spare or largest > high + spare:
        raise DataError(
            f"expected normalized pixels from {low:.4g} to {high:.4g}, got {smallest:.4g} to "
            f"{largest:.4g}.",
            hint=_HINT,
        )


def check_scores(scores: NDArray[np.float32]) -> None:
    """Refuses scores ``(N, K)`` that are no numbers.

    Raises:
        StageError: A score is NaN or Inf.
    """
    good = np.isfinite(scores).all(axis=1)
    if not good.all():
        first = int(np.flatnonzero(~good)[0])
        raise StageError(
            f"the engine gives NaN or Inf for image {first} ({int((~good).sum())} of "
            f"{len(scores)} images): that is no answer.",
            hint="Run `edgeres validate` on the engine to see whether it is broken.",
        )
