"""Trained networks at 224 x 224 for the quantization benchmark: garments before coloured clouds.

No package holds an ImageNet ResNet with its weights, and SQNR of random weights says little. So
Fashion-MNIST garments are scaled up, coloured and laid over clouds of random colours, and ResNets
learn to name them: most of the training at 64 x 64, the last at 224 x 224. Every cloud is drawn
once, so test pictures are new in both parts and of the kind that was learned. Needs the Debian
package `dataset-fashion-mnist`.
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
PARTS: Parts = ((64, 64, 800, 0.1), (128, 32, 200, 0.03), (224, 16, 150, 0.02))
DEEP_PARTS: Parts = ((64, 64, 500, 0.05), (128, 32, 150, 0.02), (224, 16, 100, 0.01))
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def garments(which: str, side: int, seed: int) -> Iterator[tuple[NDArray[np.uint8], int]]:
    """Pictures and classes without end.

    Args:
        which: ``train`` or ``t10k``.
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
        yield _scene(pictures[index], side, rng), int(labels[index])


def _scene(garment: NDArray[np.uint8], side: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    size = int(side * rng.uniform(0.6, 0.95))
    scaled = Image.fromarray(garment).resize((size, size), Image.Resampling.BICUBIC)
    shade = np.zeros((side, side), np.float32)
    x, y = (int(rng.integers(0, side - size + 1)) for _ in range(2))
    shade[y : y + size, x : x + size] = np.asarray(scaled, np.float32) / 255
    cover = np.clip(shade * 8, 0, 1)[..., None]
    colour = rng.uniform(0.5, 1.0, 3).astype(np.float32)
    picture = _cloud(side, rng) * (1 - cover) + 255 * shade[..., None] * colour * cover
    return np.clip(picture, 0, 255).astype(np.uint8)


def _cloud(side: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """``(side, side, 3) float32`` of 1 to 12 x 12 colours with smooth ways between them."""
    cells = int(rng.integers(1, 13))
    colours = Image.fromarray(rng.integers(0, 180, (cells, cells, 3), dtype=np.uint8))
    return np.asarray(colours.resize((side, side), Image.Resampling.BICUBIC), np.float32)


def pictures(
    which: str, count: int, *, seed: int, side: int = 224
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """``(count, 3, side, side) uint8`` pictures and their classes."""
    drawn = garments(which, side, seed)
    chosen = [next(drawn) for _ in range(count)]
    images = np.stack([image.transpose(2, 0, 1) for image, _ in chosen])
    return images, np.array([label for _, label in chosen], np.int64)


def train(module: nn.Module, parts: Parts = PARTS) -> None:
    """Trains a network with three input channels and ten classes, in place."""
    os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(1 << 33))
    for name, layer in module.named_modules():
        if name.endswith("bn3"):  # blocks begin as nothing: a deep network then learns at once
            nn.init.zeros_(layer.weight)
    module.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for part, (side, batch, steps, peak) in enumerate(parts):
        drawn = garments("train", side, part)
        chosen = torch.optim.SGD(
            module.parameters(), peak, momentum=0.9, nesterov=True, weight_decay=5e-4
        )
        rate = torch.optim.lr_scheduler.OneCycleLR(chosen, peak, total_steps=steps)
        for step in range(steps):
            images, labels = _batch(drawn, batch)
            chosen.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                logits = module(images)
            loss = functional.cross_entropy(logits.float(), labels, label_smoothing=0.05)
            loss.backward()  # type: ignore[no-untyped-call]
            chosen.step()
            rate.step()
            if step % 20 == 0:
                print(f"{side} px, step {step} of {steps}: loss {loss.item():.3f}", flush=True)
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
