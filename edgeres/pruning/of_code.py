"""Pruning of a network that code makes, in the child process that runs that code.

As :mod:`edgeres.pruning.recover` does for edgeres' own networks, without a plan: what is left is an
ordinary module, which goes on as ONNX. Everything lies in the work folder, so the same call goes on
after a kill.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgeres.data.preprocess import Preprocess
from edgeres.data.source import open_dataset
from edgeres.modules.spec import ModuleSpec
from edgeres.recipe.prune import PruneSettings
from edgeres.system.child import JsonValue, run_limited
from edgeres.system.progress import ProgressCallback

SECONDS = 7 * 86400.0
_STEPS = "steps.json"
_LOOK_S = 1.0


def prune_code(
    spec: ModuleSpec,
    onnx: Path,
    weights: Path,
    *,
    settings: PruneSettings,
    train_data: str,
    preprocess: Preprocess,
    sample_shape: tuple[int, int, int],
    work: Path,
    progress: ProgressCallback | None = None,
) -> dict[str, str]:
    """Prunes a network that code makes, fine-tunes it and writes it as ONNX.

    Args:
        spec: The code and its weights.
        onnx: Where the pruned network goes, as torch's exporter gives it.
        weights: Where its weights go (``.safetensors``; the metadata say which channels are kept).
        settings: The recipe's ``prune:`` block.
        train_data: Training images, as after ``--data``.
        preprocess: How an image becomes numbers.
        sample_shape: ``(C, H, W)`` of the network's input.
        work: Folder of the resumable state and the logs.
        progress: Called with (steps done, steps in all).

    Returns:
        What is known of the pruned network, text by text.

    Raises:
        ModelError: The network cannot be made, pruned or exported.
        StageError: The child crashed.
        EdgeResError: As :func:`edgeres.training.loop.fit`.
    """
    work.mkdir(parents=True, exist_ok=True)
    over = threading.Event()
    watch = threading.Thread(target=_look, args=(work / _STEPS, progress, over), daemon=True)
    watch.start()
    try:
        told = run_limited(prune_in_child, seconds=SECONDS, memory_bytes=None, what=spec.shown)(
            spec, onnx, weights, settings=settings.model_dump(mode="json", exclude_unset=True),
            train_data=train_data, preprocess=preprocess.to_dict(),
            sample_shape=list(sample_shape), work=work,
        )  # fmt: skip
    finally:
        over.set()
        watch.join()
    return {name: str(value) for name, value in told.items()}


def _look(path: Path, progress: ProgressCallback | None, over: threading.Event) -> None:
    """Passes on how far the child says it is."""
    while not over.wait(_LOOK_S):
        with contextlib.suppress(OSError, ValueError):
            done, total = json.loads(path.read_text())
            if progress is not None:
                progress(int(done), int(total))


def prune_in_child(
    spec: ModuleSpec,
    onnx: Path,
    weights: Path,
    *,
    settings: dict[str, Any],
    train_data: str,
    preprocess: dict[str, Any],
    sample_shape: Sequence[int],
    work: Path,
) -> dict[str, JsonValue]:
    """What the child of :func:`prune_code` does."""
    from edgeres.models.cost import count_macs
    from edgeres.models.weights_file import write_safetensors
    from edgeres.modules.opened import open_module
    from edgeres.modules.to_onnx import write_onnx
    from edgeres.pruning.narrowed import KEPT, joined, pruned_round
    from edgeres.pruning.rounds import (
        calibration_batches,
        round_settings,
        steps_of,
        trainings_of,
    )
    from edgeres.training.begin import check_labels
    from edgeres.training.loop import fit
    from edgeres.training.split import split_held_out

    block, prepared = PruneSettings(**settings), Preprocess.from_dict(preprocess)
    channels, height, width = sample_shape
    shape = (channels, height, width)
    dense = open_module(spec).module
    full = open_dataset(train_data, split="train")
    check_labels(_classes(dense, shape), full)
    count = block.finetune.held_out if block.finetune else len(full) // 10
    learn, check = split_held_out(full.labels, count, block.seed)
    train_set, held_out = full.subset(learn.tolist()), full.subset(check.tolist())
    data = calibration_batches(prepared, block, train_set)
    trainings = trainings_of(block)
    total = sum(steps_of(training, train_set) for training in (block.sparse, *trainings))
    done = 0

    def tell(step: int, _: int) -> None:
        with contextlib.suppress(OSError):
            (work / _STEPS).write_text(json.dumps([done + step, total]))

    module, notes, kept = dense, dict[str, str](), dict[str, list[int]]()
    if block.sparse is not None:
        module = _trainable(module)
        state, _ = fit(
            module, block.sparse, train_set, held_out, work / "sparse",
            preprocess=prepared, progress=tell,
        )  # fmt: skip
        module.load_state_dict(state.best)
        done += steps_of(block.sparse, train_set)
    whole_macs = count_macs(dense, shape)
    for index, training in enumerate(trainings):
        rounds = len(trainings)
        folder = work if rounds == 1 else work / f"round-{index + 1}"
        share = block.macs_ratio ** ((index + 1) / rounds) * whole_macs / count_macs(module, shape)
        if block.allocation == "per_layer" or share < 1:
            module, found = pruned_round(module, round_settings(block, share), data, shape, folder)
            kept = joined(kept, found)
        if training is not None:
            module = _trainable(module)
            state, _ = fit(
                module, training, train_set, held_out, folder, preprocess=prepared,
                teacher=dense if training.distill else None, keep_start=True, progress=tell,
            )  # fmt: skip
            module.load_state_dict(state.best)
            notes["held_out_top1"] = f"{state.best_score:.4f}"
            done += steps_of(training, train_set)
    module.eval().requires_grad_(False)
    notes["macs_ratio"] = f"{count_macs(module, shape) / whole_macs:.6f}"
    write_onnx(module, shape, onnx, scripted=False)
    write_safetensors(weights, module.state_dict(), {**notes, KEPT: json.dumps(kept)})
    return dict(notes)


def _trainable(module: Any) -> Any:
    return module.train().requires_grad_(True)


def _classes(module: Any, shape: tuple[int, int, int]) -> int:
    import torch

    from edgeres.modules.to_onnx import scores_of

    with torch.no_grad():
        return int(scores_of(module(torch.zeros((2, *shape)))).shape[-1])
