"""What each importance and allocation loses on the reference network, before and after fine-tuning.

    python benchmarks/pruning.py --ratio 0.5 --out FILE
    python benchmarks/pruning.py --ratio 0.5 --epochs 8 --methods taylor_hessian/global/4 --out FILE

    python benchmarks/pruning.py engines --work WORK --checkpoint half=half.safetensors --out FILE
    python benchmarks/pruning.py latency --work WORK --checkpoint half=half.safetensors --out FILE

A method is IMPORTANCE/ALLOCATION/ROUNDS. Accuracy is top-1 on the 5,000 training images that were
held out of the reference training; the test images are not looked at. ``torch-pruning/...`` rows
are that library's own pruners with the same images, the same multiple of channels, batch
normalization recalibrated and the same fine-tuning. Needs the whole Fashion-MNIST training set.

`engines` builds FP32 and INT8 engines of the dense network, of checkpoints that were fine-tuned
before (`edgeres prune`) and of `--methods`, and of the dense network quantized by ONNX Runtime and
NNCF, and answers the 10,000 test images with each; `latency` adds the time of all of them, taking
turns in one run. Both keep what is in `--work` and in `--out`. The networks of `--methods` are not
fine-tuned here, which their times do not depend on: `--top1` names the output of a run that was.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pruned_engines
import torch
import torch_pruning
from torch import nn
from torch.nn import functional

from edgeres.data.batches import batches
from edgeres.data.source import open_dataset
from edgeres.data.types import Dataset
from edgeres.models.build import read_plan
from edgeres.models.checkpoint import Checkpoint, load_checkpoint, load_module
from edgeres.models.cost import count_macs
from edgeres.pruning.prune import prune
from edgeres.pruning.recalibrate import recalibrate
from edgeres.pruning.signals import Batch
from edgeres.recipe.prune import PruneSettings
from edgeres.recipe.training import FinetuneSettings
from edgeres.system.assets import asset_path
from edgeres.system.environment import describe_environment
from edgeres.training.loop import train
from edgeres.training.split import split_held_out

SHAPE = (1, 28, 28)
ROUND_TO = 8
KINDS = ("l1", "l2", "fpgm", "bn_scale", "taylor", "taylor_hessian")
THEIRS = ("magnitude", "taylor")
METHODS = (
    *(f"{kind}/{allocation}/1" for allocation in ("uniform", "global") for kind in KINDS),
    *(f"{kind}/{allocation}/4" for allocation in ("uniform", "global") for kind in KINDS[-2:]),
    *(f"torch-pruning/{kind}/{scope}" for kind in THEIRS for scope in ("uniform", "global")),
)


@dataclass(frozen=True)
class Row:
    """One method's result; top-1 in [0, 1] on the held-out images."""

    method: str
    macs_ratio: float
    top1_pruned: float
    top1_finetuned: float | None


def pruned_by(method: str, dense: Checkpoint, ratio: float, data: list[Batch]) -> Checkpoint:
    """The dense network pruned by one method, before fine-tuning."""
    module = load_module(dense)
    first, second, third = method.split("/")
    if first == "torch-pruning":
        narrow = pruned_by_theirs(second, third == "global", module, ratio, data)
        plan = read_plan(narrow, dense.plan)
    else:
        kind, allocation = first, second
        settings = PruneSettings(
            macs_ratio=ratio,
            importance=kind,  # type: ignore[arg-type]
            allocation=allocation,  # type: ignore[arg-type]
            # magnitudes of different groups are not comparable as they are
            normalization="none" if kind.startswith("taylor") else "lamp",
            iterative_steps=int(third),
            round_to=ROUND_TO,
        )
        pruned = prune(module, dense.plan, settings, data)
        narrow, plan = pruned.module, pruned.plan
    return replace(dense, plan=plan, state=dict(narrow.state_dict()), metadata={})


def pruned_by_theirs(
    kind: str, everywhere: bool, dense: nn.Module, ratio: float, data: list[Batch]
) -> nn.Module:
    """torch-pruning's pruner, its one ratio found by bisection so that the MACs fit."""
    whole = count_macs(dense, SHAPE)
    low, high = 0.0, 0.95
    best = dense
    for _ in range(10):
        share = (low + high) / 2
        module = copy.deepcopy(dense)
        importance = (
            torch_pruning.importance.GroupTaylorImportance()
            if kind == "taylor"
            else torch_pruning.importance.GroupMagnitudeImportance(p=2)
        )
        pruner = torch_pruning.pruner.BasePruner(
            module,
            (torch.zeros(1, *SHAPE),),
            importance=importance,
            global_pruning=everywhere,
            pruning_ratio=share,
            ignored_layers=[module.get_submodule("fc")],
            round_to=ROUND_TO,
        )
        if kind == "taylor":
            for images, labels in data:
                loss = functional.cross_entropy(
                    module(torch.from_numpy(images)), torch.from_numpy(labels)
                )
                loss.backward()  # type: ignore[no-untyped-call]
        pruner.step()
        module.zero_grad()
        if count_macs(module, SHAPE) <= ratio * whole:
            best, high = module, share
        else:
            low = share
    recalibrate(best, data)
    return best


@torch.no_grad()
def top1(module: nn.Module, data: Sequence[Batch]) -> float:
    """Share of right answers, in [0, 1]."""
    right = sum(
        int((module(torch.from_numpy(images)).argmax(1).numpy() == labels).sum())
        for images, labels in data
    )
    return right / sum(len(labels) for _, labels in data)


def finetuned(
    pruned: Checkpoint, teacher: nn.Module, sets: tuple[Dataset, Dataset], epochs: int
) -> Checkpoint:
    """The default fine-tuning, for this many epochs."""
    with tempfile.TemporaryDirectory() as folder:
        result = train(
            FinetuneSettings(epochs=epochs), *sets, Path(folder), start=pruned, teacher=teacher
        )
        return load_checkpoint(result.checkpoint)


def engines(arguments: argparse.Namespace, dense: Checkpoint) -> None:
    """The steps `engines` and `latency`."""
    networks = {pruned_engines.DENSE: dense}
    for given in arguments.checkpoint:
        name, _, file = given.partition("=")
        networks[name] = load_checkpoint(Path(file))
    places = {
        method: pruned_engines.folder_of(method, arguments.work) / pruned_engines.NETWORK
        for method in (arguments.methods.split(",") if arguments.methods else [])
    }
    missing = [method for method, place in places.items() if not place.exists()]
    if missing:
        assert dense.preprocess is not None
        full = open_dataset("fashion-mnist", split="train")
        kept, _ = split_held_out(full.labels, 5000, 0)
        chosen = np.sort(np.random.default_rng(0).permutation(kept)[: arguments.samples])
        data = list(batches(full, dense.preprocess, 64, indices=chosen))
        for method in missing:
            networks[method] = pruned_by(method, dense, arguments.ratio, data)
    for method, place in places.items():
        if method not in missing:
            networks[method] = load_checkpoint(place)
    work = arguments.work
    built, macs = pruned_engines.engines_of(networks, work, threads=arguments.threads)
    accuracy, latency = {}, {}
    if arguments.step == "engines":
        untrained = set((arguments.methods or "").split(","))  # their accuracy says little
        judged = [item for item in built if item.network not in untrained]
        accuracy = pruned_engines.accuracies(judged, dense.preprocess, work)
    else:
        latency = pruned_engines.latencies(built, arguments.threads)
    held_out: dict[str, float | None] = {
        name: float(network.metadata["held_out_top1"])
        for name, network in networks.items()
        if "held_out_top1" in network.metadata
    }
    if arguments.top1:
        known = json.loads(arguments.top1.read_text(encoding="utf-8"))["rows"]
        held_out |= {row["method"]: row["top1_finetuned"] or row["top1_pruned"] for row in known}
    rows = pruned_engines.rows_of(built, macs, accuracy, latency, held_out)
    if arguments.out:
        rows = pruned_engines.merged(arguments.out, rows)
        content = {
            "environment": asdict(describe_environment()),
            "threads": arguments.threads,
            "rows": rows,
        }
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(pruned_engines.table(rows))


def main() -> None:
    """Parses arguments, prunes by each method, prints and keeps the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument(
        "step", nargs="?", choices=("methods", "engines", "latency"), default="methods"
    )
    parser.add_argument("--ratio", type=float, default=0.5, help="MACs to keep")
    parser.add_argument("--epochs", type=int, default=0, help="of fine-tuning; 0 is none")
    parser.add_argument("--methods", help="comma-separated; all if none, for engines none")
    parser.add_argument("--samples", type=int, default=1024)
    parser.add_argument("--reference", type=Path, help="dense network; the shipped one if none")
    parser.add_argument("--checkpoint", action="append", default=[], metavar="NAME=FILE")
    parser.add_argument("--top1", type=Path, help="output of methods, for their held-out top-1")
    parser.add_argument("--work", type=Path, default=Path("runs/pruning"))
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    reference = arguments.reference or asset_path(
        "recipes", "checkpoints/fmnist_resnet20.safetensors"
    )
    dense = load_checkpoint(reference)
    assert dense.preprocess is not None
    if arguments.step != "methods":
        engines(arguments, dense)
        return
    full = open_dataset("fashion-mnist", split="train")
    kept, held = split_held_out(full.labels, 5000, 0)
    chosen = np.sort(np.random.default_rng(0).permutation(kept)[: arguments.samples])
    data = list(batches(full, dense.preprocess, 64, indices=chosen))
    judged = list(batches(full, dense.preprocess, 500, indices=held))
    teacher = load_module(dense)
    whole = count_macs(teacher, SHAPE)
    rows = [Row("dense", 1.0, top1(teacher, judged), None)]
    print(f"{'method':32}{'MACs':>8}{'pruned':>9}{'fine-tuned':>12}")
    print(f"{'dense':32}{1:8.3f}{rows[0].top1_pruned:9.4f}", flush=True)
    for method in (arguments.methods or ",".join(METHODS)).split(","):
        pruned = pruned_by(method, dense, arguments.ratio, data)
        module = load_module(pruned)
        after = None
        if arguments.epochs:
            sets = (full.subset(kept.tolist()), full.subset(held.tolist()))
            tuned = finetuned(pruned, teacher, sets, arguments.epochs)
            after = top1(load_module(tuned), judged)
        row = Row(method, count_macs(module, SHAPE) / whole, top1(module, judged), after)
        rows.append(row)
        tail = "" if after is None else f"{after:12.4f}"
        print(f"{method:32}{row.macs_ratio:8.3f}{row.top1_pruned:9.4f}{tail}", flush=True)
    if arguments.out:
        content = {
            "environment": asdict(describe_environment()),
            "epochs": arguments.epochs,
            "rows": [asdict(row) for row in rows],
        }
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
