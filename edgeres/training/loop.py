"""The training run: epochs, choice of the best one, log and resumption."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from edgeres.data.preprocess import Preprocess
from edgeres.data.types import Dataset
from edgeres.errors import DataError, StorageError, UsageError
from edgeres.models.build import build_model, plan_for
from edgeres.models.checkpoint import Checkpoint, load_module, save_checkpoint
from edgeres.models.plan import ChannelPlan
from edgeres.training.device import Place, choose_place, cpu_threads
from edgeres.training.epoch import Learner, evaluate, make_learner, steps_an_epoch, train_epoch
from edgeres.training.pixels import PixelSet, load_pixels
from edgeres.training.settings import TrainSettings
from edgeres.training.state import EpochRecord, TrainState, load_state, save_state

CHECKPOINT_NAME = "model.safetensors"
STATE_NAME = "train_state.pt"
LOG_NAME = "train_log.jsonl"

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class TrainResult:
    """What a finished training left.

    Attributes:
        checkpoint: The chosen epoch's weights, as safetensors.
        log: One JSON line an epoch.
        best_epoch: The chosen epoch, from 1; the latest one where several are equal.
        held_out_top1: Its top-1 on the held-out images, in [0, 1].
        history: All epochs.
        resumed_from: Epochs that an earlier, interrupted run had done.
    """

    checkpoint: Path
    log: Path
    best_epoch: int
    held_out_top1: float
    history: tuple[EpochRecord, ...]
    resumed_from: int


def train(
    settings: TrainSettings,
    train_set: Dataset,
    held_out: Dataset,
    output: Path,
    *,
    start: Checkpoint | None = None,
    preprocess: Preprocess | None = None,
    teacher: nn.Module | None = None,
    progress: Progress | None = None,
) -> TrainResult:
    """Trains from scratch, or on from ``start``, and keeps the epoch best on ``held_out``.

    After every epoch the whole state is put into ``output`` at once. Calling again with the same
    arguments goes on from there and ends with the same weights as an uninterrupted run (bit for
    bit with the same machine, torch and number of threads). An interruption raises and leaves the
    last state whole.

    Args:
        settings: Of the run.
        train_set: Images to learn from.
        held_out: Images for choosing the epoch; never the test set.
        output: Folder of checkpoint, state and log; made if it is missing.
        start: Network to fine-tune; ``None`` trains ``settings.architecture`` from scratch.
        preprocess: Of the network; the start checkpoint's own where it is ``None``.
        teacher: Network to distil from, used where ``settings.distill_weight`` is above 0.
        progress: Called with (steps done, steps of the run).

    Raises:
        UsageError: No preprocessing given, or distillation without a teacher.
        DataError: Data that does not fit the network, or too few images.
        ArtefactError: ``output`` holds the state of another training.
        StageError: The loss is not finite any more.
        StorageError: ``output`` cannot be written.
    """
    chosen = preprocess if preprocess is not None or start is None else start.preprocess
    if chosen is None:
        raise UsageError(
            "Training needs the preprocessing of its images.",
            hint="Give the recipe's preprocess block or --scale, --mean and --std.",
        )
    if settings.distill_weight > 0 and teacher is None:
        raise UsageError(
            f"distill_weight is {settings.distill_weight}, but there is no teacher.",
            hint="Give a teacher or set distill_weight to 0.",
        )
    plan = _plan(settings, train_set, chosen) if start is None else start.plan
    _check_labels(plan, train_set, held_out)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"Cannot make the folder '{output}': {error.strerror}.", hint="Choose another --output."
        ) from error
    place = choose_place(settings)
    with cpu_threads(settings.threads):
        torch.manual_seed(settings.seed)
        module = _network(settings, plan, start).to(place.device)
        module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if teacher is not None:
            teacher = teacher.to(place.device).eval().requires_grad_(False)
        learner = make_learner(module, settings, place)
        identity = _fingerprint(settings, train_set, held_out, chosen, module, teacher)
        state = load_state(output / STATE_NAME, identity)
        if state is not None:
            _restore(learner, state)
        done = 0 if state is None else len(state.history)
        if state is None or done < settings.epochs:
            data = load_pixels(train_set, chosen, device=place.device)
            check = load_pixels(held_out, chosen, device=place.device)
            state = _epochs(
                learner, data, check, settings, place, teacher, identity, state, output, progress
            )
    final = Checkpoint(
        plan=plan,
        state={name: tensor.clone() for name, tensor in state.best.items()},
        preprocess=chosen,
        class_names=train_set.class_names,
        metadata={
            "held_out_top1": f"{state.history[state.best_epoch - 1].held_out_top1:.4f}",
            "epoch": str(state.best_epoch),
            "training": json.dumps(settings.to_mapping(), sort_keys=True),
        },
    )
    save_checkpoint(output / CHECKPOINT_NAME, final)
    _write_log(output / LOG_NAME, state.history)
    return TrainResult(
        checkpoint=output / CHECKPOINT_NAME,
        log=output / LOG_NAME,
        best_epoch=state.best_epoch,
        held_out_top1=state.history[state.best_epoch - 1].held_out_top1,
        history=state.history,
        resumed_from=done,
    )


def _epochs(
    learner: Learner,
    data: PixelSet,
    check: PixelSet,
    settings: TrainSettings,
    place: Place,
    teacher: nn.Module | None,
    identity: str,
    state: TrainState | None,
    output: Path,
    progress: Progress | None,
) -> TrainState:
    """Trains what is left, saving after every epoch."""
    steps = steps_an_epoch(len(data), settings)
    first = 0 if state is None else len(state.history)
    done = first * steps

    def on_step() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, settings.epochs * steps)

    for epoch in range(first, settings.epochs):
        begun = time.monotonic()
        loss, top1 = train_epoch(learner, data, settings, epoch, place, teacher, on_step)
        held_loss, held_top1 = evaluate(learner.evaluated, check, place)
        record = EpochRecord(
            epoch=epoch + 1,
            loss=loss,
            top1=top1,
            held_out_loss=held_loss,
            held_out_top1=held_top1,
            learning_rate=float(learner.optimizer.param_groups[0]["lr"]),
            seconds=time.monotonic() - begun,
        )
        history = (*state.history, record) if state is not None else (record,)
        better = state is None or held_top1 >= state.history[state.best_epoch - 1].held_out_top1
        average = learner.average
        state = TrainState(
            fingerprint=identity,
            history=history,
            module=_weights(learner.module),
            optimizer=learner.optimizer.state_dict(),
            scaler=learner.scaler.state_dict(),
            average={} if average is None else _weights(average.module),
            updates=0 if average is None else average.updates,
            best=_weights(learner.evaluated) if better or state is None else state.best,
            best_epoch=epoch + 1 if better or state is None else state.best_epoch,
        )
        save_state(output / STATE_NAME, state)
        _write_log(output / LOG_NAME, history)
    if state is None:  # epochs >= 1, so the loop ran
        raise AssertionError
    return state


def _plan(settings: TrainSettings, train_set: Dataset, preprocess: Preprocess) -> ChannelPlan:
    return plan_for(
        settings.architecture,
        num_classes=len(train_set.class_names),
        in_channels=preprocess.channels,
        width_multiplier=settings.width_multiplier,
    )


def _network(settings: TrainSettings, plan: ChannelPlan, start: Checkpoint | None) -> nn.Module:
    if start is not None:
        return load_module(start).requires_grad_(True)
    module = build_model(plan)
    if settings.zero_init_residual:
        last = f"bn{plan.spec.convolutions}"
        for name, part in module.named_modules():
            if name.startswith("layer") and name.endswith(f".{last}"):
                nn.init.zeros_(part.get_parameter("weight"))
    return module


def _check_labels(plan: ChannelPlan, train_set: Dataset, held_out: Dataset) -> None:
    for data in (train_set, held_out):
        if len(data) == 0:
            raise DataError(f"'{data.name}' holds no images.", hint="Check its path.")
        highest = int(data.labels.max())
        if highest >= plan.num_classes or int(data.labels.min()) < 0:
            raise DataError(
                f"'{data.name}' has labels up to {highest}, the network has {plan.num_classes} "
                "classes.",
                hint="Labels count from 0; check the data or the network's num_classes.",
            )


def _weights(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: t.detach().cpu().clone() for name, t in module.state_dict().items()}


def _restore(learner: Learner, state: TrainState) -> None:
    learner.module.load_state_dict(state.module)
    learner.optimizer.load_state_dict(state.optimizer)
    if state.scaler:
        learner.scaler.load_state_dict(state.scaler)
    if learner.average is not None:
        learner.average.module.load_state_dict(state.average)
        learner.average.updates = state.updates


def _fingerprint(
    settings: TrainSettings,
    train_set: Dataset,
    held_out: Dataset,
    preprocess: Preprocess,
    module: nn.Module,
    teacher: nn.Module | None,
) -> str:
    """SHA-256 over everything that decides the result, the first weights included."""
    digest = hashlib.sha256()
    for text in (
        settings.fingerprint(),
        train_set.fingerprint,
        held_out.fingerprint,
        preprocess.to_json(),
    ):
        digest.update(text.encode() + b"\0")
    for network in (module, teacher):
        for name, tensor in (network.state_dict() if network is not None else {}).items():
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _write_log(path: Path, history: tuple[EpochRecord, ...]) -> None:
    """Writes the whole log anew, so a resumed run's log has each epoch once."""
    lines = "".join(json.dumps(asdict(record)) + "\n" for record in history)
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(lines, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise StorageError(
            f"Cannot write the training log '{path}': {error.strerror}.", hint="Free space."
        ) from error
