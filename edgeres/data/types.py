"""What a labelled image set is, for every source: a small protocol and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image


class Dataset(Protocol):
    """Labelled images that are decoded one at a time.

    ``labels`` has shape ``(N,)`` and dtype int64. ``fingerprint`` is a SHA-256 over the images and
    labels (or over file names, sizes and labels where the images are files).
    """

    name: str
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    fingerprint: str

    def __len__(self) -> int:
        """Number of images."""
        ...

    def image(self, index: int) -> Image.Image:
        """Decodes one image to mode ``L`` or ``RGB``; raises ``DataError`` naming a bad file."""
        ...

    def subset(self, indices: Sequence[int]) -> Dataset:
        """The images at these indices, in that order."""
        ...
