"""Pictures and targets of other tasks than classes, made from Fashion-MNIST.

- ``embedding``: garments; the target is what they are, for verification.
- ``segmentation``: garments laid at several sizes on a noisy canvas; the mask has the class of each
  pixel, 0 behind them, and what a garment hardly covers is ignored.
- ``heads``: garments turned by quarters; one target is the garment, the other the turn.
- ``lines``: garments as 28 features over 28 steps, for networks over time; the target is what they
  are.

The training split comes with the Debian package `dataset-fashion-mnist`, the test images with
edgeres: networks learn from the former and are judged on the latter.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeres.data.fashion_mnist import open_fashion_mnist
from edgeres.data.types import Split

Pictures = NDArray[np.uint8]
Features = NDArray[np.float32]
Targets = Mapping[str, NDArray[np.int64]]

SIDE = 28
CANVAS = 64
IGNORED = 255
MEAN, STD = 0.286, 0.353
_SHOWN = 40  # from here on a pixel is the garment's, below it is ignored where it is not black


def garments(split: Split, count: int, *, start: int = 0) -> tuple[Pictures, NDArray[np.int64]]:
    """``(count, 28, 28) uint8`` garments in the split's order, and their classes."""
    data = open_fashion_mnist(split)
    rows = range(start, start + count)
    return np.stack([np.asarray(data.image(row)) for row in rows]), np.asarray(data.labels[rows])


def embedding_set(split: Split, count: int) -> tuple[Pictures, Targets]:
    """Garments and what they are."""
    pictures, labels = garments(split, count)
    return pictures, {"garment": labels}


def heads_set(split: Split, count: int, seed: int = 0) -> tuple[Pictures, Targets]:
    """Garments turned by 0 to 3 quarters, counter-clockwise."""
    pictures, labels = garments(split, count)
    turns = np.random.default_rng(seed).integers(0, 4, count)
    turned = np.stack([np.rot90(one, turn) for one, turn in zip(pictures, turns, strict=True)])
    return turned, {"garment": labels, "turn": turns}


def segmentation_set(split: Split, count: int, seed: int = 0) -> tuple[Pictures, Targets]:
    """``(count, 64, 64) uint8`` canvases of one to three garments, and their masks."""
    rng = np.random.default_rng(seed)
    stock, labels = garments(split, min(3 * count, 1024 if split == "calibration" else 10_000))
    pictures = np.zeros((count, CANVAS, CANVAS), np.uint8)
    masks = np.zeros((count, CANVAS, CANVAS), np.int64)
    for picture, mask in zip(pictures, masks, strict=True):
        picture[:] = rng.integers(0, 30) + rng.integers(0, 25, (CANVAS, CANVAS))
        for _ in range(rng.integers(1, 4)):
            chosen = int(rng.integers(len(stock)))
            size = int(rng.integers(24, 45))
            scaled = Image.fromarray(stock[chosen]).resize((size, size))
            garment = np.asarray(scaled)
            top, left = rng.integers(0, CANVAS - size + 1, 2)
            place = (slice(top, top + size), slice(left, left + size))
            shown, edge = garment >= _SHOWN, (garment > 0) & (garment < _SHOWN)
            picture[place][shown] = garment[shown]
            mask[place][shown] = labels[chosen] + 1
            mask[place][edge] = IGNORED
    return pictures, {"mask": masks}


def lines_set(split: Split, count: int) -> tuple[Features, Targets]:
    """``(count, 28, 28) float32``: features, normalized, over steps."""
    pictures, labels = garments(split, count)
    return ((pictures / np.float32(255) - MEAN) / STD).astype(np.float32), {"labels": labels}


SETS = {"embedding": embedding_set, "segmentation": segmentation_set, "heads": heads_set}


def write_lines(split: Split, count: int, file: Path) -> str:
    """Writes features and their classes; returns what ``--data`` takes."""
    features, targets = lines_set(split, count)
    np.savez(file, inputs=features, labels=targets["labels"])
    return f"tensors:{file}"


def write_set(name: str, split: Split, count: int, folder: Path) -> str:
    """Writes pictures and a table of their targets, as a user might have them.

    Returns:
        What ``--data`` takes.
    """
    pictures, targets = SETS[name](split, count)
    folder.mkdir(parents=True, exist_ok=True)
    lines = [",".join(["file", *targets])]
    for row, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"{row}.png")
        cells = [f"{row}.png"]
        for target, values in targets.items():
            if target == "mask":
                cells.append(f"{row}-mask.png")
                Image.fromarray(values[row].astype(np.uint8)).save(folder / cells[-1])
            else:
                cells.append(str(values[row]))
        lines.append(",".join(cells))
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    return f"list:{folder / 'table.csv'}"
