"""Features in one array, in memory or mapped from a file: the data set behind ``tensors:``."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeres.data.features import Features, as_features
from edgeres.data.targets import Targets, by_name

if TYPE_CHECKING:
    from edgeres.data.preprocess import Preprocess

_BLOCK_BYTES = 1 << 24
_SPREAD_SAMPLES = 256


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """Features with their targets.

    Attributes:
        name: Short name for reports.
        inputs: ``(M, ...)`` of any real type, those of the whole set, which subsets share.
        rows: ``(N,) int64``: which of them this set has, in its order.
        labels: ``(N,) int64``.
        class_names: Name of each class in label order; empty where not known.
        values: Targets of the whole set by name, ``(M, ...)``.
        columns: Names of the targets in their order.
    """

    name: str
    inputs: NDArray[Any]
    rows: NDArray[np.int64]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    values: Mapping[str, NDArray[Any]]
    columns: tuple[str, ...]

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.rows)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over shapes, numbers, labels, targets and class names."""
        digest = hashlib.sha256(repr((self.class_names, self.columns)).encode())
        for array in (self.inputs, *(self.values[name] for name in self.columns)):
            digest.update(repr((len(self), array.shape[1:], array.dtype.str)).encode())
            step = max(1, _BLOCK_BYTES // max(1, array[:1].nbytes))
            for start in range(0, len(self), step):
                part = np.ascontiguousarray(array[self.rows[start : start + step]])
                digest.update(part.view(np.uint8).data if part.size else b"")
        digest.update(np.ascontiguousarray(self.labels, dtype="<i8").data)
        return digest.hexdigest()

    @cached_property
    def spread(self) -> float:
        """Standard deviation of the numbers of the whole set, from samples evenly taken."""
        places = np.unique(
            np.linspace(0, len(self.inputs) - 1, min(_SPREAD_SAMPLES, len(self.inputs))).astype(int)
        )
        with np.errstate(all="ignore"):
            numbers = self.inputs[places].astype(np.float32).astype(np.float64)
            finite = numbers[np.isfinite(numbers)]
            found = float(np.std(finite)) if len(finite) else 0.0
        return found if np.isfinite(found) and found > 0 else 1.0

    @property
    def target_names(self) -> tuple[str, ...]:
        """What the targets are called, in their order."""
        return self.columns

    def targets(self, rows: NDArray[np.int64], preprocess: Preprocess) -> Targets:
        """What is right for the samples at these rows; integers as int64, masks as int32."""
        return by_name({name: _plain(self.values[name][self.rows[rows]]) for name in self.columns})

    def image(self, index: int) -> Features:
        """One sample.

        Raises:
            DataError: It holds NaN or infinity, or numbers that float32 has not.
        """
        spread = self.spread
        return as_features(self.inputs[self.rows[index]], self.image_name(index), spread)

    def image_name(self, index: int) -> str:
        """Name of the set and position of the sample in the file."""
        return f"{self.name}[{self.rows[index]}]"

    def subset(self, indices: Sequence[int]) -> FeatureSet:
        """The samples at these indices, in that order."""
        rows = np.asarray(indices, dtype=np.int64)
        return replace(self, rows=self.rows[rows], labels=self.labels[rows])


def _plain(target: NDArray[Any]) -> NDArray[Any]:
    if target.dtype.kind == "f":
        return target.astype(np.float32 if target.ndim > 2 else np.float64)
    return target.astype(np.int32 if target.ndim > 2 else np.int64)
