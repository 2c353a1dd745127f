"""Image files with more than a class each: numbers, several labels, masks."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeres.data.files import FileDataset
from edgeres.data.masks import fit_mask, read_mask
from edgeres.data.targets import Targets, by_name
from edgeres.errors import DataError

if TYPE_CHECKING:
    from edgeres.data.preprocess import Preprocess

MASK = "mask"
"""Name of the target that masks are."""


@dataclass(frozen=True, eq=False)
class TargetFiles(FileDataset):
    """Image files, each with all that is known of it.

    Attributes:
        values: Numbers by target, ``(N, ...)``; class numbers among them, which are ``labels`` too.
        masks: Path of each image's mask relative to ``root``; empty where there are none.
        columns: Names of the targets in their order, masks among them.
    """

    values: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    masks: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()

    @property
    def target_names(self) -> tuple[str, ...]:
        """What the targets are called, in their order."""
        return self.columns

    def targets(self, rows: NDArray[np.int64], preprocess: Preprocess) -> Targets:
        """What is right for the images at these rows.

        Raises:
            DataError: A mask is bad, or masks come to different sizes.
        """
        return by_name(
            {
                name: self.values[name][rows]
                if name in self.values
                else self._masks(rows, preprocess)
                for name in self.columns
            }
        )

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the files and all of their targets, masks by content."""
        digest = hashlib.sha256(super().fingerprint.encode())
        for name in self.columns:
            digest.update(repr(name).encode())
            if name in self.values:
                digest.update(repr(self.values[name].shape).encode())
                digest.update(np.ascontiguousarray(self.values[name]).data)
        paths = [os.path.join(self.root, path) for path in self.masks]  # noqa: PTH118
        digest.update("\n".join(self.hashes.of(paths)).encode())
        return digest.hexdigest()

    def subset(self, indices: Sequence[int]) -> TargetFiles:
        """The files at these indices, in that order, with their targets."""
        rows = np.asarray(indices, dtype=np.int64)
        return replace(
            self,
            paths=tuple(self.paths[index] for index in rows),
            labels=self.labels[rows],
            values={name: values[rows] for name, values in self.values.items()},
            masks=tuple(self.masks[index] for index in rows) if self.masks else (),
        )

    def _masks(self, rows: NDArray[np.int64], preprocess: Preprocess) -> NDArray[np.int32]:
        fitted: list[NDArray[np.int32]] = []
        for row in rows:
            place = self.root / self.masks[row]
            mask = fit_mask(read_mask(place, self.root / self.paths[row]), preprocess)
            if fitted and mask.shape != fitted[0].shape:
                raise DataError(
                    f"Expected every mask of {self.name} in the size of the first, "
                    f"{fitted[0].shape}, got {mask.shape} for {str(place)!r}.",
                    hint="Set a crop, or an exact resize [height, width].",
                )
            fitted.append(mask)
        return np.stack(fitted)
