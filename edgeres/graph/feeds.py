"""What a network is fed, in the element type that it takes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeres.errors import DataError


def as_taken(dtype: str, images: NDArray[np.generic]) -> NDArray[np.generic]:
    """Images in the element type that a network takes, by NumPy's name.

    Raises:
        DataError: It takes bytes, and these are no whole numbers of 0 to 255.
    """
    if images.dtype == dtype:
        return images
    with np.errstate(invalid="ignore"):  # what no byte is shows below
        taken = images.astype(dtype)
    if taken.dtype == np.uint8 and not np.array_equal(taken, images):
        raise DataError(
            f"the engine takes pixels of 0 to 255 as bytes, preprocessing gives "
            f"{images.min():.4g} to {images.max():.4g}.",
            hint="It normalizes inside: say --scale 1 --mean 0 --std 1, or leave them out.",
        )
    return taken
