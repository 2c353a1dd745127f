"""A tiny image set that a tiny network learns in a few steps."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from edgeres.data.arrays import ArrayDataset
from edgeres.data.preprocess import Preprocess
from edgeres.training.settings import TrainSettings

CLASSES = ("dark", "left", "right")


@pytest.fixture(autouse=True)
def one_thread() -> object:
    """One thread: small tensors, and other work on the machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def preprocess() -> Preprocess:
    return Preprocess(mean=(0.3,), std=(0.4,), channels=1)


@pytest.fixture
def make_set() -> Callable[..., ArrayDataset]:
    """Noise with a bright half that says the class; equal arguments give equal images."""

    def make(count: int, seed: int = 0) -> ArrayDataset:
        generator = np.random.default_rng(seed)
        images = generator.integers(0, 90, (count, 8, 8), dtype=np.uint8)
        labels = np.arange(count, dtype=np.int64) % len(CLASSES)
        images[labels == 1, :, :4] += 150
        images[labels == 2, :, 4:] += 150
        return ArrayDataset(f"halves-{seed}", images, labels, CLASSES)

    return make


@pytest.fixture
def settings() -> TrainSettings:
    """Three quick epochs; no flip, which would exchange two of the classes."""
    return TrainSettings(
        architecture="resnet20",
        width_multiplier=0.5,
        epochs=3,
        batch_size=32,
        learning_rate=0.1,
        flip=False,
        crop_padding=1,
        ema_decay=0.9,
        held_out=12,
        device="cpu",
    )
