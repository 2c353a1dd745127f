"""What least-squares reconstruction gives back after pruning, without any training.

    python benchmarks/reconstruction.py

The reference network is pruned to shares of its multiply-adds, with widths in steps of 8 and 4,
with batch normalization recalibrated alone and with `reconstruct`. Top-1 on the 10,000 test images
of Fashion-MNIST. The calibration images are 1,024 of the training images; their labels serve the
importance only. The result is written to ``benchmarks/results/reconstruction.json``.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from edgeres.data.batches import batches
from edgeres.data.source import open_dataset
from edgeres.models.checkpoint import load_checkpoint, load_module
from edgeres.pruning.prune import prune_module
from edgeres.pruning.signals import Batch
from edgeres.recipe.prune import PruneSettings
from edgeres.system.assets import asset_path
from edgeres.system.environment import describe_environment
from edgeres.system.files import write_atomic

OUT = Path(__file__).parent / "results" / "reconstruction.json"
CASES = ((0.6, 8), (0.5, 8), (0.33, 8), (0.25, 8), (0.25, 4))
SEEDS = (0, 1, 2)
SAMPLES = 1024


def top1(module: nn.Module, test: list[Batch]) -> float:
    """Share of images that are classified rightly."""
    with torch.no_grad():
        right = sum(
            int((module(torch.from_numpy(images)).argmax(1).numpy() == labels).sum())
            for images, labels in test
        )
    return right / sum(len(labels) for _, labels in test)


def main() -> None:
    """Prunes in every way and writes the table."""
    checkpoint = load_checkpoint(asset_path("recipes", "checkpoints/fmnist_resnet20.safetensors"))
    assert checkpoint.preprocess is not None
    module = load_module(checkpoint).eval()
    train, test = (open_dataset("fashion-mnist", split=part) for part in ("train", "validation"))
    shown = list(batches(test, checkpoint.preprocess, 250))
    rows = []
    for share, round_to in CASES:
        for seed in SEEDS:
            order = np.random.default_rng(seed).permutation(len(train))[:SAMPLES]
            data = list(batches(train, checkpoint.preprocess, 64, indices=np.sort(order)))
            for reconstruct in (False, True):
                settings = PruneSettings(
                    macs_ratio=share, round_to=round_to, finetune=None, reconstruct=reconstruct
                )
                started = time.process_time()
                pruned = prune_module(module, settings, data)
                rows.append(
                    {
                        "macs_ratio": round(pruned.macs_ratio, 3),
                        "round_to": round_to,
                        "seed": seed,
                        "reconstruct": reconstruct,
                        "top1": round(top1(pruned.module, shown), 4),
                        "cpu_seconds": round(time.process_time() - started, 1),
                    }
                )
                print(rows[-1], flush=True)
    result = {
        "environment": describe_environment().to_dict(),
        "dense_top1": round(top1(module, shown), 4),
        "rows": rows,
    }
    write_atomic(OUT, (json.dumps(result, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
