"""What a training learns from: a set of samples in memory, of whatever kind its data is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from edgeres.data.preprocess import Preprocess
from edgeres.data.types import Dataset
from edgeres.errors import UsageError
from edgeres.recipe.training import Training
from edgeres.training.arrays import load_arrays
from edgeres.training.pixels import load_pixels

OF_IMAGES = ("flip", "crop_padding", "erase_probability")
OF_SPECTROGRAMS = ("time_shift", "time_mask", "frequency_mask")


class Samples(Protocol):
    """Samples in memory with their labels ``(N,) int64``, all on one device."""

    @property
    def labels(self) -> Tensor:
        """Class of each sample, ``(N,) int64``."""
        ...

    def __len__(self) -> int:
        """Number of samples."""
        ...

    def inputs(self, rows: slice) -> Tensor:
        """What the network takes, ``(M, ...) float32``, unchanged."""
        ...

    def augmented(self, rows: Tensor, settings: Training, generator: torch.Generator) -> Tensor:
        """What the network takes of these samples, changed at random as the settings say."""
        ...


def load_samples(
    dataset: Dataset, preprocess: Preprocess, *, device: torch.device | None = None
) -> Samples:
    """Reads a whole set: images as 8-bit pixels, sounds and features as what the network takes.

    Args:
        dataset: The samples.
        preprocess: Of the network; says which kind of samples they are.
        device: Where they go; ``None`` is the CPU.

    Raises:
        DataError: See :func:`~edgeres.training.pixels.load_pixels` and
            :func:`~edgeres.training.arrays.load_arrays`.
    """
    if takes_arrays(preprocess):
        return load_arrays(dataset, preprocess, device=device)
    return load_pixels(dataset, preprocess, device=device)


def takes_arrays(preprocess: Preprocess) -> bool:
    """Whether a network's samples are spectrograms or features, not pixels."""
    return preprocess.features or preprocess.log_mel is not None


def check_augmentation(settings: Training, preprocess: Preprocess, name: str) -> None:
    """Refuses augmentation that somebody asked for and that these samples cannot have.

    Args:
        settings: Of the training; what is left at its default is passed over.
        preprocess: Of the network.
        name: Of the data set, for the message.

    Raises:
        UsageError: Naming the key.
    """
    arrays = takes_arrays(preprocess)
    values: Mapping[str, object] = dict(settings)
    for key in OF_IMAGES if arrays else OF_SPECTROGRAMS:
        if key in settings.model_fields_set and values[key]:
            raise UsageError(
                f"The training setting {key} is for "
                f"{'images' if arrays else 'sounds and features'}, and {name} holds "
                f"{'none' if arrays else 'images'}.",
                hint="Leave it out. `time_shift`, `time_mask` and `frequency_mask` are for sounds "
                "and features, `flip`, `crop_padding` and `erase_probability` for images.",
            )
