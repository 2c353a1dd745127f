"""A tiny image set that a tiny network learns in a few steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from edgeres.data.arrays import ArrayDataset
from edgeres.data.preprocess import Preprocess
from edgeres.recipe.training import TrainSettings

CLASSES = ("dark", "left", "right")


@pytest.fixture(autouse=True)
def one_thread() -> object:
    """One thread: small tensors, and other work on the machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def halves(count: int, seed: int = 0) -> ArrayDataset:
    """Noise with a bright half that says the class; equal arguments give equal images."""
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 90, (count, 8, 8), dtype=np.uint8)
    labels = np.arange(count, dtype=np.int64) % len(CLASSES)
    images[labels == 1, :, :4] += 150
    images[labels == 2, :, 4:] += 150
    return ArrayDataset(f"halves-{seed}", images, labels, CLASSES)


@pytest.fixture(scope="session")
def preprocess() -> Preprocess:
    return Preprocess(mean=(0.3,), std=(0.4,), channels=1)


@pytest.fixture(scope="session")
def make_set() -> Callable[..., ArrayDataset]:
    return halves


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
def trained_net(
    tmp_path_factory: pytest.TempPathFactory, settings: TrainSettings, preprocess: Preprocess
) -> Path:
    """Folder with a small trained network: ``fp32.onnx`` and its calibration ``table.json``."""
    from edgeres.data.batches import batches
    from edgeres.exporting.to_onnx import export_onnx
    from edgeres.models.checkpoint import load_checkpoint, load_module
    from edgeres.quantization.calibrate import calibrate
    from edgeres.training.loop import train

    folder = tmp_path_factory.mktemp("trained")
    few = settings.replace(width_multiplier=0.25, threads=1)
    result = train(few, halves(192), halves(48, 1), folder, preprocess=preprocess)
    module = load_module(load_checkpoint(result.checkpoint))
    export_onnx(module, (1, 8, 8), folder / "fp32.onnx")
    images = [batch for batch, _ in batches(halves(48, 2), preprocess, 16)]
    calibrate(folder / "fp32.onnx", images, threads=1).save(folder / "table.json")
    return folder
