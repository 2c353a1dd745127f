"""An image of other channels than grey or RGB: near infrared, depth, two pictures on each other.

Pillow has no such image. This has as much of one as a data set asks for; resizing and cropping are
done plane by plane.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Planes:
    """Pixels in planes.

    Attributes:
        pixels: ``(H, W, C) uint8``, C neither 1 nor 3.
    """

    pixels: NDArray[np.uint8]

    @property
    def width(self) -> int:
        """In pixels."""
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        """In pixels."""
        return int(self.pixels.shape[0])

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, in the order of Pillow."""
        return self.width, self.height

    @property
    def channels(self) -> int:
        """Number of planes."""
        return int(self.pixels.shape[2])

    @property
    def mode(self) -> str:
        """What kind of image it is, in words."""
        return f"{self.channels} channels"

    def tobytes(self) -> bytes:
        """All pixels, row by row."""
        return self.pixels.tobytes()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """The pixels, for NumPy."""
        return np.array(self.pixels, dtype=dtype, copy=bool(copy))
