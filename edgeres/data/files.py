"""Images that are files, decoded when asked for: the data set behind folders and lists."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeres.data.decode import decode_file
from edgeres.errors import DataError


@dataclass(frozen=True, eq=False)
class FileDataset:
    """Labelled image files.

    Attributes:
        name: Short name for reports.
        root: Folder that ``paths`` are relative to.
        paths: One path for each image, relative to ``root``.
        labels: ``(N,) int64``.
        class_names: Name of each class in label order; empty where not known.
    """

    name: str
    root: Path
    paths: tuple[str, ...]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Checks that there is one label for each path.

        Raises:
            DataError: The lengths differ.
        """
        if self.labels.shape != (len(self.paths),):
            raise DataError(
                f"Expected one label for each of the {len(self.paths)} files of {self.name}, got "
                f"labels of shape {self.labels.shape}."
            )

    def __len__(self) -> int:
        """Number of images."""
        return len(self.paths)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over class names and each file's relative path, size and label.

        The content is not read: 50,000 photographs are several gigabytes. A file that is replaced
        by another of the same size and name goes unnoticed.
        """
        digest = hashlib.sha256(repr(self.class_names).encode())
        for path, label in zip(self.paths, self.labels.tolist(), strict=True):
            try:
                size = (self.root / path).stat().st_size
            except OSError:
                size = -1  # missing or unreadable: decoding it will name it
            digest.update(os.fsencode(path) + f"\0{size}\0{label}\n".encode())
        return digest.hexdigest()

    def image(self, index: int) -> Image.Image:
        """Decodes one file to mode ``L`` or ``RGB``.

        Raises:
            DataError: The file is missing, damaged or not an image; the message names it.
        """
        return decode_file(self.root / self.paths[index])

    def image_name(self, index: int) -> str:
        """Path of the file relative to the root, quoted so that odd names print on one line."""
        return repr(self.paths[index])

    def subset(self, indices: Sequence[int]) -> FileDataset:
        """The files at these indices, in that order."""
        chosen = [int(index) for index in indices]
        paths = tuple(self.paths[index] for index in chosen)
        return FileDataset(self.name, self.root, paths, self.labels[chosen], self.class_names)
