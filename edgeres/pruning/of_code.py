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

import numpy as np

from edgeres.data.class_order import in_order_of
from edgeres.data.preprocess import Preprocess
from edgeres.data.source import open_dataset
from edgeres.data.types import UNLABELLED, Dataset
from edgeres.errors import UsageError
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
    classes: bool = True,
    class_names: Sequence[str] = (),
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
        classes: Whether it is a classifier whose images have labels; else importance is what
            removing a channel does to all outputs, fine-tuning follows those of the dense network,
            and no label is looked at.
        class_names: Of its classes in the order of its scores, where they are known.
        progress: Called with (steps done, steps in all).

    Returns:
        What is known of the pruned network, text by text.

    Raises:
        ModelError: The network cannot be made, pruned or exported.
        UsageError: Classes are to be learned of a network that is no classifier.
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
            sample_shape=list(sample_shape), work=work, classes=classes,
            class_names=list(class_names),
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
    classes: bool,
    class_names: Sequence[str],
) -> dict[str, JsonValue]:
    """What the child of :func:`prune_code` does."""
    from edgeres.models.weights_file import write_safetensors
    from edgeres.modules.opened import open_module
    from edgeres.modules.to_onnx import write_onnx
    from edgeres.pruning.module_rounds import ModuleRounds
    from edgeres.pruning.narrowed import KEPT
    from edgeres.pruning.rounds import calibration_batches

    block, prepared = PruneSettings(**settings), Preprocess.from_dict(preprocess)
    channels, height, width = sample_shape
    shape = (channels, height, width)
    dense = open_module(spec).module
    count = _classes(dense, shape) if classes else None
    train_set, held_out = sets_of(train_data, block, count, class_names)
    data = calibration_batches(prepared, block, train_set)
    if not classes:
        data = [(images, np.full_like(labels, UNLABELLED)) for images, labels in data]

    def tell(step: int, total: int) -> None:
        with contextlib.suppress(OSError):
            (work / _STEPS).write_text(json.dumps([step, total]))

    rounds = ModuleRounds(block, prepared, shape, work, classes=classes, progress=tell)
    module, notes, kept = rounds.run(dense, data, train_set, held_out)
    write_onnx(module.eval().requires_grad_(False), shape, onnx, scripted=False, every=not classes)
    write_safetensors(weights, module.state_dict(), {**notes, KEPT: json.dumps(kept)})
    return dict(notes)


def sets_of(
    train_data: str, block: PruneSettings, num_classes: int | None, class_names: Sequence[str]
) -> tuple[Dataset, Dataset]:
    """What is learned from and what is held out; without classes no label is needed.

    Raises:
        UsageError: Classes are to be learned of a network that has none.
        DataError: The images cannot be used.
    """
    from edgeres.pruning.rounds import held_out_count
    from edgeres.training.begin import check_labels
    from edgeres.training.split import split_held_out

    if num_classes is None:
        hint = "Leave it out: fine-tuning then follows the outputs of the dense network."
        if block.sparse is not None:
            raise UsageError("`prune.sparse` learns classes; this network has none.", hint=hint)
        if block.finetune is not None and not block.finetune.distill:
            raise UsageError(
                "`prune.finetune.distill: false` learns classes; this network has none.", hint=hint
            )
    full = open_dataset(train_data, split="train", labels_needed=num_classes is not None)
    if num_classes is not None:
        full = in_order_of(full, class_names).dataset
        check_labels(num_classes, full)
    learn, check = split_held_out(full.labels, held_out_count(block, len(full)), block.seed)
    return full.subset(learn.tolist()), full.subset(check.tolist())


def _classes(module: Any, shape: tuple[int, int, int]) -> int:
    import torch

    from edgeres.modules.answers import scores_of

    with torch.no_grad():
        return int(scores_of(module(torch.zeros((2, *shape)))).shape[-1])
