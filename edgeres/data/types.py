"""What a set of samples is, for every source: a small protocol and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeres.data.features import Features
from edgeres.data.planes import Planes
from edgeres.data.sound import Sound

Split = Literal["train", "validation", "calibration"]
"""Which part of a data set is asked for; a source without parts gives the same images for all."""

SPLIT_NAMES: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation", "dev", "test", "testing"),
    "calibration": ("calibration", "train", "training"),
}
"""What a split's part is called in folders and archives; the first that exists is taken."""

Sample = Image.Image | Planes | Features | Sound
"""What a data set hands out: an image, features that need no preprocessing, or a sound."""

UNLABELLED = -1
"""Label of an image whose class is not known (calibration needs none)."""


class Dataset(Protocol):
    """Labelled images, or other samples, that are decoded one at a time.

    ``labels`` has shape ``(N,)`` and dtype int64, :data:`UNLABELLED` where there is none.
    ``class_names`` is empty where the source does not say which classes exist. ``fingerprint`` is a
    SHA-256 over the images and labels (over names, content and labels of files, undecoded). What
    else is right for a sample than a class, :func:`edgeres.data.targets.targets_of` tells.
    """

    @property
    def name(self) -> str:
        """Short name for reports, e.g. ``fashion-mnist/validation``."""
        ...

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class of each image, ``(N,) int64``."""
        ...

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each class in label order; empty where the source does not say."""
        ...

    @property
    def fingerprint(self) -> str:
        """SHA-256 in hexadecimal that changes when images, labels or their order change."""
        ...

    def __len__(self) -> int:
        """Number of images."""
        ...

    def image(self, index: int) -> Sample:
        """Decodes one image to mode ``L`` or ``RGB``, or to planes where it has other channels.

        A set of features hands out those.

        Raises ``DataError`` naming a bad file.
        """
        ...

    def image_name(self, index: int) -> str:
        """File name or position of one image, safe to print on one line."""
        ...

    def subset(self, indices: Sequence[int]) -> Dataset:
        """The images at these indices, in that order."""
        ...
