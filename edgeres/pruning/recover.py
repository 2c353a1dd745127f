"""The pipeline's pruning stage: prune, then win the accuracy back, resumably.

Everything it works with lies in its output folder: for each round the pruned network before
fine-tuning, and the training's own state and log. Calling again with the same arguments goes on
from there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from edgeres.data.preprocess import Preprocess
from edgeres.data.types import Dataset
from edgeres.errors import ArtefactError, UsageError
from edgeres.layer_latency.bench import NetworkBench
from edgeres.layer_latency.predict import LatencyModel
from edgeres.models.checkpoint import Checkpoint, load_checkpoint, load_module, save_checkpoint
from edgeres.models.cost import count_macs, count_parameters
from edgeres.pruning.confirmed import ConfirmedWidths
from edgeres.pruning.latency_cost import predicted_ms
from edgeres.pruning.prune import prune, prune_steps
from edgeres.pruning.rounds import calibration_batches, round_settings, steps_of, trainings_of
from edgeres.pruning.signals import Batch
from edgeres.pruning.summary import CONFIRMED
from edgeres.recipe.prune import PruneSettings
from edgeres.recipe.training import FinetuneSettings
from edgeres.system.progress import ProgressCallback
from edgeres.training.device import choose_device
from edgeres.training.loop import train
from edgeres.training.objective import Classes
from edgeres.training.samples import load_samples

PRUNED_NAME = "pruned.safetensors"
SPARSE_FOLDER = "sparse"


def prune_and_finetune(
    checkpoint: Checkpoint,
    settings: PruneSettings,
    train_set: Dataset,
    held_out: Dataset,
    output: Path,
    *,
    latency: LatencyModel | None = None,
    bench: NetworkBench | None = None,
    progress: ProgressCallback | None = None,
) -> Checkpoint:
    """Prunes a trained network and fine-tunes what is left, taught by the dense network.

    With ``settings.epochs_between`` each of the ``settings.iterative_steps`` rounds is followed by
    training; otherwise the rounds follow one another and one training closes them.
    ``settings.sparse`` trains the dense network first, so that channels of little use show.

    Args:
        checkpoint: The dense network; it must know its preprocessing.
        settings: Of pruning and of fine-tuning.
        train_set: Images for importance, statistics and fine-tuning.
        held_out: Images for choosing the epoch; never the test set.
        output: Folder of states and logs.
        latency: Of the dense network, for allocation ``latency``.
        bench: Where the widths of the last round are measured before they are kept.
        progress: Called with (steps done, steps in all), of pruning and of training.

    Returns:
        The pruned network. Its metadata say ``macs`` and ``parameters``, both of the dense network,
        too (``dense_macs``), ``macs_ratio`` against it, the settings as ``pruning``, top-1 on the
        held-out images before (``dense_held_out_top1``), right after the last pruning
        (``untrained_held_out_top1``) and after fine-tuning (``held_out_top1``) and, where a
        latency model was given, ``dense_latency_ms`` (measured) and ``predicted_latency_ms`` of
        its backend; with a bench the prediction is the one before the network was built, and
        ``confirmed_widths`` says what was measured.

    Raises:
        UsageError: No preprocessing, a budget below the floor, or nothing that can be pruned.
        ModelError: The network cannot be pruned; see :func:`edgeres.pruning.prune.prune`.
        DataError: Data that does not fit the network.
        ArtefactError: ``output`` holds another run.
        StorageError: ``output`` cannot be written.
    """
    if checkpoint.preprocess is None:
        raise UsageError(
            "Pruning needs the preprocessing of the network's images.",
            hint="Give the recipe's preprocess block or --scale, --mean and --std.",
        )
    dense = load_module(checkpoint)
    data = calibration_batches(checkpoint.preprocess, settings, train_set)
    shape = _shape(data)
    whole_macs = count_macs(dense, shape)
    trainings = trainings_of(settings)
    first = prune_steps(dense, round_settings(settings, 0.5), data)
    total = sum(steps_of(training, train_set) for training in (settings.sparse, *trainings))
    total += len(trainings) * first
    done = 0
    score = _Score(checkpoint.preprocess, held_out, settings)
    notes = {
        "dense_macs": str(whole_macs),
        "dense_parameters": str(count_parameters(dense)),
        "dense_held_out_top1": score(dense),
    }

    def advance(step: int, _: int) -> None:
        if progress is not None:
            progress(done + step, total)

    current = checkpoint
    if settings.sparse is not None:
        slimmed = train(
            settings.sparse,
            train_set,
            held_out,
            output / SPARSE_FOLDER,
            start=checkpoint,
            keep_start=False,  # it is to be sparse, not better
            progress=advance,
        )
        current = load_checkpoint(slimmed.checkpoint)
        done = steps_of(settings.sparse, train_set)
    for index, training in enumerate(trainings):
        rounds = len(trainings)
        folder = output if rounds == 1 else output / f"round-{index + 1}"
        share = (settings.target_latency or settings.macs_ratio) ** ((index + 1) / rounds)
        last = bench if index + 1 == rounds else None
        current = _pruned_start(
            current, settings, share, whole_macs, data, folder, latency, last, advance
        )
        done += first
        account = current.metadata.get(CONFIRMED)
        if training is None:
            notes["untrained_held_out_top1"] = score(load_module(current))
        else:
            result = train(
                training,
                train_set,
                held_out,
                folder,
                start=current,
                teacher=dense if training.distill else None,
                progress=advance,
            )
            current = load_checkpoint(result.checkpoint)
            assert result.start_top1 is not None  # the start may be kept, so it was scored
            notes["untrained_held_out_top1"] = f"{result.start_top1:.4f}"
            done += steps_of(training, train_set)
    last_module = load_module(current)
    macs = count_macs(last_module, shape)
    notes |= {
        "macs": str(macs),
        "parameters": str(count_parameters(last_module)),
        "macs_ratio": f"{macs / whole_macs:.6f}",
    }
    if latency is not None:
        place = latency.table.place
        predicted = predicted_ms(last_module, latency)
        notes["latency_backend"] = f"{place.backend} {place.precision}"
        notes["dense_latency_ms"] = f"{latency.dense_ms:.6f}"
        if account is not None:
            predicted = ConfirmedWidths.from_json(account, CONFIRMED).predicted_ms
            notes[CONFIRMED] = account
        notes["predicted_latency_ms"] = f"{predicted:.6f}"
    return _described(current, checkpoint, settings, notes)


@dataclass(frozen=True)
class _Score:
    """Top-1 on the held-out images, as the text that metadata carry."""

    preprocess: Preprocess
    held_out: Dataset
    settings: PruneSettings

    def __call__(self, module: nn.Module) -> str:
        """Of a network, which goes to the device of its training."""
        device = choose_device(self.settings.finetune or FinetuneSettings()).device
        samples = load_samples(self.held_out, self.preprocess, device=device)
        top1 = Classes().evaluate(module.to(device), samples, None).value
        return f"{top1:.4f}"


def _pruned_start(
    current: Checkpoint,
    settings: PruneSettings,
    share: float,
    whole_macs: int,
    data: list[Batch],
    folder: Path,
    latency: LatencyModel | None,
    bench: NetworkBench | None,
    progress: ProgressCallback,
) -> Checkpoint:
    """The pruned network before training: from the folder where this very one lies there.

    A second computation might differ in the last bit, and then not be the network whose training
    is to be resumed.
    """
    module = load_module(current)
    if settings.allocation == "latency":
        settings = settings.replace(target_latency=share)  # of the dense network, always
    elif settings.allocation != "per_layer":
        share = share * whole_macs / count_macs(module, _shape(data))
        if share >= 1:  # the round before reached it already
            return current
    settings = round_settings(settings, share)
    path = folder / PRUNED_NAME
    identity = _identity(current, settings, data, latency)
    if path.exists():
        stored = load_checkpoint(path)
        if stored.metadata.get("pruned_from") == identity:
            return stored
        raise ArtefactError(
            f"'{path}' was pruned from another network or with other settings or images.",
            hint=f"Remove '{folder}' to prune from the start, or choose another --output.",
        )
    narrow = prune(
        module, current.plan, settings, data, latency=latency, bench=bench, progress=progress
    )
    confirmed = narrow.result.confirmed
    account = {} if confirmed is None else {CONFIRMED: confirmed.to_json()}
    pruned = replace(
        current,
        plan=narrow.plan,
        state=dict(narrow.module.state_dict()),
        metadata={"pruned_from": identity, **account},
    )
    save_checkpoint(path, pruned)
    return pruned


def _identity(
    current: Checkpoint,
    settings: PruneSettings,
    data: list[Batch],
    latency: LatencyModel | None,
) -> str:
    """SHA-256 of everything that decides the pruned network."""
    elsewhere = {"finetune", "epochs_between", "sparse"}
    told = {key: value for key, value in settings.key().items() if key not in elsewhere}
    if latency is not None:
        told["latency_table"] = latency.table.to_json()
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
    digest.update(current.plan.to_json().encode())
    for name, tensor in current.state.items():
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    for images, labels in data:
        digest.update(images.tobytes())
        digest.update(labels.tobytes())
    return digest.hexdigest()


def _shape(data: list[Batch]) -> tuple[int, int, int]:
    channels, height, width = data[0][0].shape[1:]
    return channels, height, width


def _described(
    pruned: Checkpoint, dense: Checkpoint, settings: PruneSettings, notes: Mapping[str, str]
) -> Checkpoint:
    before = {k: v for k, v in pruned.metadata.items() if k not in ("pruned_from", CONFIRMED)}
    return replace(
        pruned,
        class_names=dense.class_names or pruned.class_names,
        metadata={
            **before,
            **notes,
            "pruning": settings.model_dump_json(),
        },
    )
