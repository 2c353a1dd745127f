"""What one pruning consists of: its images, its rounds, and the training after each."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgeres.data.batches import batches
from edgeres.data.preprocess import Preprocess
from edgeres.data.types import Dataset
from edgeres.pruning.signals import Batch
from edgeres.recipe.prune import PruneSettings
from edgeres.recipe.training import FinetuneSettings, Training
from edgeres.training.epoch import steps_an_epoch

_BATCH = 64
_MOST_JUDGING = 2000


def trainings_of(settings: PruneSettings) -> list[FinetuneSettings | None]:
    """The training after each round of pruning; one round where nothing comes between."""
    if settings.epochs_between == 0 or settings.finetune is None:
        return [settings.finetune]
    between = settings.finetune.replace(epochs=settings.epochs_between)
    return [*[between] * (settings.iterative_steps - 1), settings.finetune]


def steps_of(training: Training | None, train_set: Dataset) -> int:
    """Steps of one training; 0 where there is none."""
    return 0 if training is None else training.epochs * steps_an_epoch(len(train_set), training)


def held_out_count(settings: PruneSettings, images: int) -> int:
    """How many of the training images judge; without fine-tuning a tenth, at most 2,000."""
    if settings.finetune is not None:
        return settings.finetune.held_out
    return min(max(1, images // 10), _MOST_JUDGING)


def calibration_batches(
    preprocess: Preprocess, settings: PruneSettings, train_set: Dataset
) -> list[Batch]:
    """The same images each time: a random choice by seed, in batches, channels first."""
    order = np.random.default_rng(settings.seed).permutation(len(train_set))[: settings.samples]
    # Torch networks take channels first, whatever the engine's input will be.
    first = replace(preprocess, layout="nchw")
    found = batches(train_set, first, _BATCH, indices=np.sort(order))
    # Lines are images of one row, which the networks over lines take, too.
    return [(x[:, :, None] if x.ndim == 3 else x, labels) for x, labels in found]


def round_settings(settings: PruneSettings, share: float) -> PruneSettings:
    """The settings of one round that keeps ``share`` of the multiply-adds that it begins with."""
    if settings.allocation not in ("per_layer", "latency"):
        settings = settings.replace(macs_ratio=share)
    if settings.epochs_between > 0:
        settings = settings.replace(iterative_steps=1, epochs_between=0)
    return settings
