"""Does pruning to any width ever end in a crash or in wrong gradients? Every width, random ones.

    python benchmarks/narrow_training.py --out benchmarks/results/narrow_training.json

The main job's network is pruned so that every group keeps 1, 2, ... 64 channels (or all that it
has), then so that each group keeps a random number of them. Each of these is fine-tuned for 50
steps, as `edgeres prune` does it, in a child process of its own: with all that the CPU has, and as
on one with AVX2. Then one step's gradients are compared with float64, in the layout that edgeres
chose, and in the other one where that is not known to be wrong. A run that is stopped goes on where
it was: rows are kept in the result file.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import random
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gradients import CHILD_S, ISAS

from edgeres.data.source import open_dataset
from edgeres.models.checkpoint import Checkpoint, load_checkpoint, load_module
from edgeres.pruning.groups import ChannelGraph
from edgeres.pruning.prune import prune
from edgeres.recipe.prune import PruneSettings
from edgeres.recipe.training import FinetuneSettings
from edgeres.system.assets import asset_path
from edgeres.system.environment import describe_environment
from edgeres.training.device import TorchDevice
from edgeres.training.gradient_check import LayoutName
from edgeres.training.layout import choose_layout, lay_out, lay_out_images
from edgeres.training.loop import train
from edgeres.training.split import split_held_out

NETWORK = "checkpoints/fmnist_wide_resnet20.safetensors"
WIDTHS, RANDOM, STEPS, BATCH, HELD_OUT = range(1, 65), 50, 50, 16, 100
LIMIT = 0.02
"""Largest error of a gradient over its largest value; wrong ones are off by half and more."""
CHILD = (
    "import sys; sys.path.insert(0, sys.argv[1]); import narrow_training as n; n.child(sys.argv[2])"
)


def names() -> list[str]:
    """All networks that are tried."""
    return [f"width {w}" for w in WIDTHS] + [f"random {seed}" for seed in range(RANDOM)]


def child(name: str) -> None:
    """Prunes, fine-tunes and checks one network; prints what was found as JSON."""
    kind, number = name.split()
    dense = load_checkpoint(asset_path("recipes", NETWORK))
    module = load_module(dense)
    draw = random.Random(int(number))
    widths = {
        group.name: min(int(number), group.channels)
        if kind == "width"
        else draw.randint(1, group.channels)
        for group in ChannelGraph(module, (1, 28, 28)).groups
    }
    images = open_dataset("fashion-mnist", split="calibration")
    assert dense.preprocess is not None
    batch = np.stack([dense.preprocess.apply(images.image(i)) for i in range(BATCH)])
    labels = images.labels[:BATCH]
    settings = PruneSettings(
        allocation="per_layer", widths=widths, round_to=1, min_share=1e-6, finetune=None
    )
    small = prune(module, dense.plan, settings, [(batch, labels)])
    start = Checkpoint(small.plan, dict(small.module.state_dict()), dense.preprocess)
    learn, check = split_held_out(images.labels, HELD_OUT, 0)
    epochs = -(-STEPS // (len(learn) // BATCH))
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # which layout it is, is told below
        result = train(
            FinetuneSettings(epochs=epochs, batch_size=BATCH, distill=False, threads=1),
            images.subset(learn.tolist()),
            images.subset(check.tolist()),
            Path(folder),
            start=start,
            keep_start=False,
        )
        trained = load_module(load_checkpoint(result.checkpoint))
        inputs = torch.from_numpy(batch)
        layout = choose_layout(trained, inputs, TorchDevice(torch.device("cpu"), torch.float32))
    wanted = _gradients(trained.double(), inputs.double(), torch.from_numpy(labels))
    trained = trained.float()
    checked: list[LayoutName] = ["channels_first"]
    if layout == "channels_last":
        checked.append("channels_last")
    errors = {}
    for way in checked:
        laid = lay_out(copy.deepcopy(trained), way)
        found = _gradients(laid, lay_out_images(inputs, way), torch.from_numpy(labels))
        errors[way] = max(
            float((found[key].double() - value).abs().max() / value.abs().max().clamp_min(1e-12))
            for key, value in wanted.items()
        )
    told = {"layout": layout, "errors": errors, "loss": result.history[-1].loss}
    print(json.dumps(told), flush=True)


def _gradients(
    module: torch.nn.Module, inputs: torch.Tensor, labels: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Of all weights with more than one dimension, in evaluation mode: no batch statistics."""
    module = module.eval()
    module.zero_grad()
    torch.nn.functional.cross_entropy(module(inputs), labels.long()).backward()  # type: ignore[no-untyped-call]
    parts = dict(module.named_parameters())
    return {n: p.grad.clone() for n, p in parts.items() if p.grad is not None and p.ndim > 1}


def tried(name: str, isa: str) -> dict[str, Any]:
    """What a child says of a network, or how it ended."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", CHILD, str(Path(__file__).parent), name],
            env={**os.environ, **ISAS[isa], "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=CHILD_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"ended": f"hung for {CHILD_S:g} s"}
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [""]
        return {"ended": f"{done.returncode}: {lines[-1]}"}
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def main() -> None:
    """Tries what the result file does not have yet; prints what is not right."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/narrow_training.json"))
    out = parser.parse_args().out
    rows: dict[str, dict[str, Any]] = {isa: {} for isa in ISAS}
    if out.is_file():
        rows = json.loads(out.read_text())["rows"]
    for isa in reversed(ISAS):
        for name in names():
            if name in rows[isa]:
                continue
            rows[isa][name] = tried(name, isa)
            if "ended" in rows[isa][name] or max(rows[isa][name]["errors"].values()) > LIMIT:
                print(isa, name, rows[isa][name], flush=True)
            content = {"environment": describe_environment().to_dict(), "torch": torch.__version__}
            out.write_text(json.dumps({**content, "rows": rows}, indent=1) + "\n")
    for isa, found in rows.items():
        ended = sum("ended" in row for row in found.values())
        first = sum(row.get("layout") == "channels_first" for row in found.values())
        worst = max(max(row["errors"].values()) for row in found.values() if "errors" in row)
        print(
            f"{isa}: {len(found)} networks, {ended} ended too early, {first} trained channels "
            f"first, gradients off by {worst:.1e} at most"
        )


if __name__ == "__main__":
    main()
