"""Trained networks at 224 x 224 for the quantization benchmark: garments before photographs.

No package holds an ImageNet ResNet with its weights, and SQNR of random weights says little. So
Fashion-MNIST garments are scaled up, coloured and laid over crops of photographs, and ResNets learn
to name them: most of the training at 64 x 64 (48 x 48 for the deeper network), the rest at
224 x 224. Two cores take seven minutes for ResNet-18 and twice as long for ResNet-50. Needs the
Debian package `dataset-fashion-mnist`, and scikit-image.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from torch.nn import functional

from edgeres.data.idx import read_idx

DATA = Path("/usr/share/datasets/fashion-mnist")
Parts = tuple[tuple[int, int, int, float], ...]
#: (image side, batch, steps, peak of the learning rate) of each part of the training.
PARTS: Parts = ((64, 32, 700, 0.1), (224, 8, 60, 0.01))
DEEP_PARTS: Parts = ((48, 32, 300, 0.02), (224, 8, 30, 0.004))
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def garments(
    which: str, photos: list[Image.Image], side: int, seed: int
) -> Iterator[tuple[NDArray[np.uint8], int]]:
    """Pictures and classes without end.

    Args:
        which: ``train`` or ``t10k``.
        photos: What the crops behind the garments are of.
        side: Pixels of a side.
        seed: Of everything that is drawn.

    Yields:
        ``(side, side, 3) uint8`` and the class.
    """
    pictures = read_idx(DATA / f"{which}-images-idx3-ubyte.gz")
    labels = read_idx(DATA / f"{which}-labels-idx1-ubyte.gz")
    rng = np.random.default_rng(seed)
    while True:
        index = int(rng.integers(len(labels)))
        yield (
            _scene(pictures[index], photos[int(rng.integers(len(photos)))], side, rng),
            int(labels[index]),
        )


def _scene(
    garment: NDArray[np.uint8], photo: Image.Image, side: int, rng: np.random.Generator
) -> NDArray[np.uint8]:
    crop = int(rng.integers(160, min(photo.size) + 1))
    left, top = (int(rng.integers(0, extent - crop + 1)) for extent in photo.size)
    box = (left, top, left + crop, top + crop)
    behind = np.asarray(photo.resize((side, side), Image.Resampling.BILINEAR, box), np.float32)
    size = int(side * rng.uniform(0.6, 0.95))
    scaled = Image.fromarray(garment).resize((size, size), Image.Resampling.BICUBIC)
    shade = np.zeros((side, side), np.float32)
    x, y = (int(rng.integers(0, side - size + 1)) for _ in range(2))
    shade[y : y + size, x : x + size] = np.asarray(scaled, np.float32) / 255
    cover = np.clip(shade * 8, 0, 1)[..., None]
    colour = rng.uniform(0.5, 1.0, 3).astype(np.float32)
    picture = behind * 0.7 * (1 - cover) + 255 * shade[..., None] * colour * cover
    return np.clip(picture, 0, 255).astype(np.uint8)


def pictures(
    which: str, photos: list[Image.Image], count: int, *, seed: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """``(count, 3, 224, 224) uint8`` pictures and their classes."""
    drawn = garments(which, photos, 224, seed)
    chosen = [next(drawn) for _ in range(count)]
    images = np.stack([image.transpose(2, 0, 1) for image, _ in chosen])
    return images, np.array([label for _, label in chosen], np.int64)


def train(module: nn.Module, photos: list[Image.Image], parts: Parts = PARTS) -> None:
    """Trains a network with three input channels and ten classes, in place."""
    os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(1 << 33))
    for name, layer in module.named_modules():
        if name.endswith("bn3"):  # blocks begin as nothing: a deep network then learns at once
            nn.init.zeros_(layer.weight)
    module.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for part, (side, batch, steps, peak) in enumerate(parts):
        drawn = garments("train", photos, side, part)
        chosen = torch.optim.SGD(
            module.parameters(), peak, momentum=0.9, nesterov=True, weight_decay=5e-4
        )
        rate = torch.optim.lr_scheduler.OneCycleLR(chosen, peak, total_steps=steps)
        for step in range(steps):
            images, labels = _batch(drawn, batch)
            chosen.zero_grad()
            loss = functional.cross_entropy(module(images), labels, label_smoothing=0.05)
            loss.backward()  # type: ignore[no-untyped-call]
            chosen.step()
            rate.step()
            if step % 20 == 0:
                print(f"{side} px, step {step} of {steps}: loss {float(loss):.3f}", flush=True)
    module.eval()


def _batch(
    drawn: Iterator[tuple[NDArray[np.uint8], int]], size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    chosen = [next(drawn) for _ in range(size)]
    images = np.stack([image for image, _ in chosen]).astype(np.float32) / 255
    images = (images - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    tensor = torch.from_numpy(images.transpose(0, 3, 1, 2))
    return tensor.contiguous(memory_format=torch.channels_last), torch.tensor(
        [label for _, label in chosen]
    )
