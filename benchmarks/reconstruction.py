"""What least-squares reconstruction gives back after pruning, without any training.

    python benchmarks/reconstruction.py [--way WAY] [--network NETWORK]

Two trained networks are pruned to shares of their multiply-adds, with widths in steps of 8 and 4:
by `global`, with batch normalization recalibrated alone (`recalibrated`) and with `reconstruct`
(`global`), and the first network to 0.6 and 0.5 as the ONNX file that it
is exported to (`onnx`). Top-1 on the 10,000 test images of Fashion-MNIST. The calibration images
are 1,024 of the training images; their labels serve the importance only, and none for `onnx`. The
result is written to ``benchmarks/results/reconstruction.json``; rows of other ways and networks
than those that are named stay there.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from edgeres.data.batches import batches
from edgeres.data.source import open_dataset
from edgeres.models.checkpoint import load_checkpoint, load_module
from edgeres.pruning.of_onnx import OnnxPruning, prune_onnx
from edgeres.pruning.prune import prune_module
from edgeres.pruning.signals import Batch
from edgeres.recipe.prune import PruneSettings
from edgeres.recipe.recipe import ExportSettings
from edgeres.stages.network import export
from edgeres.system.assets import asset_path
from edgeres.system.environment import describe_environment
from edgeres.system.files import write_atomic

OUT = Path(__file__).parent / "results" / "reconstruction.json"
CASES = ((0.6, 8), (0.5, 8), (0.33, 8), (0.25, 8), (0.25, 4))
SEEDS = (0, 1, 2)
SAMPLES = 1024
WAYS = ("recalibrated", "global", "onnx")
NETWORKS = ("fmnist_resnet20", "fmnist_pooled_resnet")


def top1(module: nn.Module, test: list[Batch]) -> float:
    """Share of images that are classified rightly."""
    with torch.no_grad():
        right = sum(
            int((module(torch.from_numpy(images)).argmax(1).numpy() == labels).sum())
            for images, labels in test
        )
    return right / sum(len(labels) for _, labels in test)


def pruned_top1(network: str, way: str, shown: list[Batch], known: list[dict[str, object]]) -> None:
    """Prunes a network in one way to every share and writes each row at once."""
    checkpoint = load_checkpoint(asset_path("recipes", f"checkpoints/{network}.safetensors"))
    assert checkpoint.preprocess is not None
    module = load_module(checkpoint).eval()
    train = open_dataset("fashion-mnist", split="train")
    for share, round_to in CASES:
        for seed in SEEDS:
            order = np.random.default_rng(seed).permutation(len(train))[:SAMPLES]
            data = list(batches(train, checkpoint.preprocess, 64, indices=np.sort(order)))
            settings = PruneSettings(
                macs_ratio=share,
                round_to=round_to,
                finetune=None,
                reconstruct=way != "recalibrated",
            )
            started = time.process_time()
            pruned = prune_module(module, settings, data)
            row: dict[str, object] = {
                "network": network,
                "way": way,
                "macs_ratio": round(pruned.macs_ratio, 3),
                "round_to": round_to,
                "seed": seed,
                "top1": round(top1(pruned.module, shown), 4),
                "cpu_seconds": round(time.process_time() - started, 1),
            }
            print(row, flush=True)
            known.append(row)


def pruned_onnx(network: str, known: list[dict[str, object]]) -> None:
    """The same of the exported file, without a label."""
    source = asset_path("recipes", f"checkpoints/{network}.safetensors")
    preprocess = load_checkpoint(source).preprocess
    assert preprocess is not None
    train, test = (open_dataset("fashion-mnist", split=part) for part in ("train", "validation"))
    for share, round_to in CASES[:2]:
        for seed in SEEDS:
            with tempfile.TemporaryDirectory() as folder:
                dense, small = Path(folder) / "dense.onnx", Path(folder) / "small.onnx"
                export(source, dense, image_size=(28, 28), settings=ExportSettings())
                settings = PruneSettings(
                    macs_ratio=share, round_to=round_to, seed=seed, samples=SAMPLES, finetune=None
                )
                pruning = OnnxPruning(settings, preprocess, train, test, classes=True)
                started = time.process_time()
                told = prune_onnx(dense, small, pruning, Path(folder) / "work")
            row: dict[str, object] = {
                "network": network,
                "way": "onnx",
                "macs_ratio": round(float(told["macs_ratio"]), 3),
                "round_to": round_to,
                "seed": seed,
                "top1": float(told["untrained_held_out_top1"]),
                "agreement": float(told["agreement"]),
                "sqnr_db": float(told["sqnr_db"]),
                "cpu_seconds": round(time.process_time() - started, 1),
            }
            print(row, flush=True)
            known.append(row)


def main() -> None:
    """Prunes in the ways that are asked for and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--way", choices=WAYS)
    parser.add_argument("--network", choices=NETWORKS)
    asked = parser.parse_args()
    told = json.loads(OUT.read_text()) if OUT.exists() else {"rows": [], "dense_top1": {}}
    test = open_dataset("fashion-mnist", split="validation")
    for network in [asked.network] if asked.network else NETWORKS:
        checkpoint = load_checkpoint(asset_path("recipes", f"checkpoints/{network}.safetensors"))
        assert checkpoint.preprocess is not None
        shown = list(batches(test, checkpoint.preprocess, 250))
        told["dense_top1"][network] = round(top1(load_module(checkpoint).eval(), shown), 4)
        for way in [asked.way] if asked.way else WAYS:
            told["rows"] = [r for r in told["rows"] if (r["network"], r["way"]) != (network, way)]
            if way != "onnx":
                pruned_top1(network, way, shown, told["rows"])
            elif network == NETWORKS[0]:
                pruned_onnx(network, told["rows"])
    told["environment"] = describe_environment().to_dict()
    write_atomic(OUT, (json.dumps(told, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
