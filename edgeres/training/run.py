"""``edgeres train``: open the data, hold images out, train, and test once."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from edgeres.data.class_order import in_order_of
from edgeres.data.preprocess import Preprocess
from edgeres.data.source import open_dataset
from edgeres.data.types import Dataset
from edgeres.errors import ArtefactError
from edgeres.models.checkpoint import (
    Checkpoint,
    load_checkpoint,
    load_module,
    save_checkpoint,
)
from edgeres.recipe.training import TrainSettings
from edgeres.system.files import write_atomic
from edgeres.system.progress import ProgressCallback
from edgeres.training.device import choose_device, cpu_threads
from edgeres.training.loop import train
from edgeres.training.objective import Classes
from edgeres.training.samples import load_samples
from edgeres.training.split import split_held_out

RESULT_NAME = "train_result.json"


@dataclass(frozen=True)
class TrainSummary:
    """What a run of :func:`train_and_test` found; written as ``train_result.json`` too.

    Attributes:
        checkpoint: File name of the weights in the output folder.
        weights_sha256: Of plan and weights.
        log: File name of the log, one JSON line an epoch.
        epochs: Epochs trained.
        best_epoch: The chosen one, from 1.
        held_out: Images that the epoch was chosen on.
        held_out_top1: On those, in [0, 1].
        test_samples: Test images; 0 where the data has no test images of its own.
        test_top1: On those, in [0, 1]; ``None`` without test images.
        seconds: Wall time of all epochs.
    """

    checkpoint: str
    weights_sha256: str
    log: str
    epochs: int
    best_epoch: int
    held_out: int
    held_out_top1: float
    test_samples: int
    test_top1: float | None
    seconds: float


def train_and_test(
    settings: TrainSettings,
    data: str,
    output: Path,
    *,
    start: Checkpoint | None = None,
    preprocess: Preprocess | None = None,
    progress: ProgressCallback | None = None,
) -> TrainSummary:
    """Trains on the training images of ``data`` and tests the chosen epoch once.

    ``settings.held_out`` training images, class-balanced, choose the epoch. The test images are
    touched after that, and only once: a second call on a finished folder returns what is there.

    Args:
        settings: Of the run.
        data: As :func:`edgeres.data.source.open_dataset` takes it.
        output: Folder of checkpoint, log, result and the state for resuming.
        start: Network to fine-tune; ``None`` trains from scratch.
        preprocess: Of the network; the start checkpoint's own where it is ``None``.
        progress: Called with (steps done, steps of the run).

    Raises:
        EdgeResError: As :func:`~edgeres.training.loop.train`, ``open_dataset`` and
            ``split_held_out``.
    """
    full = _in_order(open_dataset(data, split="train"), start)
    learn, check = split_held_out(full.labels, settings.held_out, settings.seed)
    result = train(
        settings,
        full.subset(learn.tolist()),
        full.subset(check.tolist()),
        output,
        start=start,
        preprocess=preprocess,
        progress=progress,
    )
    checkpoint = load_checkpoint(result.checkpoint)
    weights = _weights_sha256(checkpoint)
    samples, top1 = _earlier_test(output / RESULT_NAME, weights)
    if top1 is None:
        test = _in_order(open_dataset(data, split="validation"), start)
        # A source without parts gives the same images for every split: no test set then.
        if test.fingerprint != full.fingerprint:
            samples, top1 = len(test), _top1(checkpoint, test, settings)
    tested = {} if top1 is None else {"test_top1": f"{top1:.4f}", "test_samples": str(samples)}
    final = dataclasses.replace(checkpoint, metadata=checkpoint.metadata | tested)
    save_checkpoint(result.checkpoint, final)
    summary = TrainSummary(
        checkpoint=result.checkpoint.name,
        weights_sha256=weights,
        log=result.log.name,
        epochs=len(result.history),
        best_epoch=result.best_epoch,
        held_out=len(check),
        held_out_top1=result.held_out_top1,
        test_samples=samples,
        test_top1=top1,
        seconds=round(sum(record.seconds for record in result.history), 1),
    )
    write_atomic(output / RESULT_NAME, (json.dumps(asdict(summary), indent=2) + "\n").encode())
    return summary


def _in_order(dataset: Dataset, start: Checkpoint | None) -> Dataset:
    """The classes as the start numbers them, where they are the same; else it learns others."""
    ordered = in_order_of(dataset, start.class_names if start is not None else ())
    return ordered.dataset if ordered.by_name else dataset


def _weights_sha256(checkpoint: Checkpoint) -> str:
    digest = hashlib.sha256(checkpoint.plan.to_json().encode())
    for name, tensor in sorted(checkpoint.state.items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def _earlier_test(path: Path, weights: str) -> tuple[int, float | None]:
    """Samples and top-1 of a test that these very weights had before."""
    if not path.is_file():
        return 0, None
    try:
        earlier = json.loads(path.read_text(encoding="utf-8"))
        if earlier["weights_sha256"] != weights or earlier["test_top1"] is None:
            return 0, None
        return int(earlier["test_samples"]), float(earlier["test_top1"])
    except (ValueError, KeyError, TypeError) as error:
        raise ArtefactError(
            f"'{path}' is no training result: {error}.", hint="Remove it and run again."
        ) from error


def _top1(checkpoint: Checkpoint, test: Dataset, settings: TrainSettings) -> float:
    if checkpoint.preprocess is None:  # train() always writes one
        raise AssertionError
    device = choose_device(settings).device
    data = load_samples(test, checkpoint.preprocess, device=device)
    with cpu_threads(settings.threads):
        top1 = Classes().evaluate(load_module(checkpoint).to(device), data, None).top1
    assert top1 is not None
    return top1
