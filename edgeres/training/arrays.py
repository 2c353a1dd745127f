"""A whole set of spectrograms or features in memory, ready for batch augmentation."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from edgeres.data.batches import numbered_batches
from edgeres.data.preprocess import Preprocess
from edgeres.data.types import Dataset
from edgeres.errors import DataError
from edgeres.recipe.training import Training
from edgeres.training.spectrogram import mask, shift_time

MAX_BYTES = 8 << 30
_BATCH, _THREADS = 64, 2


@dataclass(frozen=True)
class ArraySet:
    """Network inputs ``(N, C, F, T)`` or ``(N, C, T)`` float32 and labels ``(N,) int64``."""

    values: Tensor
    labels: Tensor

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.labels)

    def inputs(self, rows: slice) -> Tensor:
        """What the network takes, ``(M, C, F, T) float32``; of a line, an image of one row."""
        return _as_images(self.values[rows])

    def augmented(self, rows: Tensor, settings: Training, generator: torch.Generator) -> Tensor:
        """The same of chosen samples, shifted in time, with bands and moments masked."""
        chosen = shift_time(self.values[rows], settings.time_shift, generator)
        chosen = mask(chosen, settings.time_mask, -1, generator)
        return _as_images(mask(chosen, settings.frequency_mask, -2, generator))


def _as_images(values: Tensor) -> Tensor:
    return values.unsqueeze(2) if values.dim() == 3 else values


def load_arrays(
    dataset: Dataset, preprocess: Preprocess, *, device: torch.device | None = None
) -> ArraySet:
    """Computes what the network takes of every sample, once.

    Args:
        dataset: Sounds or features.
        preprocess: Of the network.
        device: Where the numbers go; ``None`` is the CPU.

    Raises:
        DataError: An empty set, samples of different shapes, one that cannot be read, or more than
            ``MAX_BYTES``.
    """
    count = len(dataset)
    if count == 0:
        raise DataError(
            f"The training data '{dataset.name}' holds no samples.", hint="Check its path."
        )
    store = np.empty((0,), np.float32)
    # Torch networks take channels first, whatever the engine's input will be.
    first = replace(preprocess, layout="nchw")
    last = preprocess.features and preprocess.layout == "nhwc"
    for batch, rows in numbered_batches(dataset, first, _BATCH, workers=_THREADS):
        values = np.moveaxis(batch, -1, 1) if last else batch
        if not len(store):
            needed = count * values[0].nbytes
            if needed > MAX_BYTES:
                raise DataError(
                    f"{count} samples of shape {values.shape[1:]} need {needed >> 20} MiB, "
                    f"training keeps at most {MAX_BYTES >> 20} MiB in memory.",
                    hint="Use fewer or smaller samples.",
                )
            store = np.empty((count, *values.shape[1:]), np.float32)
        store[rows] = values
    labels = torch.from_numpy(np.asarray(dataset.labels, dtype=np.int64))
    return ArraySet(torch.from_numpy(store).to(device), labels.to(device))
