"""A sample that is a network's input already: numbers of any shape, which nothing is done to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeres.errors import DataError

if TYPE_CHECKING:
    from edgeres.data.types import Dataset


@dataclass(frozen=True, eq=False)
class Features:
    """One sample of features. No setting of the preprocessing applies to it.

    Attributes:
        values: ``(...) float32``, finite, at least one dimension.
        spread: Standard deviation of the numbers of the set that it comes from, over 0: what
            tells whether two samples are near each other.
    """

    values: NDArray[np.float32]
    spread: float = 1.0

    @property
    def width(self) -> int:
        """Length of the last dimension."""
        return int(self.values.shape[-1])

    @property
    def height(self) -> int:
        """Length of the last dimension but one; 1 where there is none."""
        return int(self.values.shape[-2]) if self.values.ndim > 1 else 1

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, in the order of Pillow."""
        return self.width, self.height

    @property
    def mode(self) -> str:
        """What kind of sample it is, in words."""
        return f"features {self.values.shape}"

    def tobytes(self) -> bytes:
        """All numbers, row by row."""
        return self.values.tobytes()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """The numbers, for NumPy."""
        return np.array(self.values, dtype=dtype, copy=bool(copy))


def as_features(values: NDArray[Any], name: str, spread: float = 1.0) -> Features:
    """One sample from an array.

    Args:
        values: Numbers of any real type.
        name: Of the sample, for messages.
        spread: See :class:`Features`.

    Raises:
        DataError: No numbers, none at all, or some that are NaN or too large for float32.
    """
    if values.dtype.kind not in "fiub" or values.ndim == 0 or values.size == 0:
        raise DataError(
            f"{name}: expected an array of numbers with at least one dimension, got "
            f"{values.shape} {values.dtype}.",
            hint="Give each sample as the network takes it, without the batch dimension.",
        )
    with np.errstate(over="ignore"):
        numbers = np.ascontiguousarray(values, dtype=np.float32)
    bad = int(np.count_nonzero(~np.isfinite(numbers)))
    if bad:
        raise DataError(
            f"{name}: {bad} of {numbers.size:,} numbers are NaN, infinite or too large for "
            "float32.",
            hint="Check what computes the features.",
        )
    return Features(numbers, spread)


def spread_of(dataset: Dataset) -> float | None:
    """Standard deviation of the numbers of a set of features; ``None`` where it has images."""
    for index in range(len(dataset)):
        try:
            sample = dataset.image(index)
        except DataError:
            continue
        return sample.spread if isinstance(sample, Features) else None
    return None
