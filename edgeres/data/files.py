"""Images that are files, decoded when asked for: the data set behind folders and lists."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeres.data.hashes import FileHashes
from edgeres.data.sample_file import read_sample
from edgeres.data.types import Dataset, Sample
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
        hashes: What is known of the files' content; shared with subsets.
        skipped: What lies there and was taken for no part of the set, in words.
    """

    name: str
    root: Path
    paths: tuple[str, ...]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...] = ()
    hashes: FileHashes = field(default_factory=FileHashes)
    skipped: str = ""

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
        """SHA-256 over class names and each file's relative path, content and label."""
        digest = hashlib.sha256(repr(self.class_names).encode())
        contents = self.hashes.of([os.path.join(self.root, path) for path in self.paths])  # noqa: PTH118
        for path, content, label in zip(self.paths, contents, self.labels.tolist(), strict=True):
            digest.update(os.fsencode(path) + f"\0{content}\0{label}\n".encode())
        return digest.hexdigest()

    def image(self, index: int) -> Sample:
        """Decodes one file: an image to mode ``L`` or ``RGB``, a sound, or features.

        Raises:
            DataError: The file is missing, damaged or none of these; the message names it.
        """
        return read_sample(self.root / self.paths[index])

    def image_name(self, index: int) -> str:
        """Path of the file relative to the root, quoted so that odd names print on one line."""
        return repr(self.paths[index])

    def subset(self, indices: Sequence[int]) -> FileDataset:
        """The files at these indices, in that order."""
        rows = [int(index) for index in indices]
        paths = tuple(self.paths[index] for index in rows)
        return replace(self, paths=paths, labels=self.labels[rows])


def skipped_note(dataset: Dataset) -> str:
    """What was skipped of a data set, in a sentence; empty where nothing was."""
    note = dataset.skipped if isinstance(dataset, FileDataset) else ""
    return f"{dataset.name}: {note}." if note else ""
