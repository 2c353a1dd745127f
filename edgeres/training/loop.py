"""The training run: epochs, choice of the best one, log and resumption."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from edgeres.data.preprocess import Preprocess
from edgeres.data.types import Dataset
from edgeres.errors import UsageError
from edgeres.models.checkpoint import Checkpoint, save_checkpoint
from edgeres.recipe.training import Training
from edgeres.system.files import disk_errors
from edgeres.system.freed_memory import freed_memory_kept
from edgeres.system.progress import ProgressCallback
from edgeres.training.begin import (
    check_labels,
    choose_plan,
    choose_preprocess,
    fingerprint,
    first_network,
)
from edgeres.training.device import TorchDevice, choose_device, cpu_threads
from edgeres.training.epoch import Learner, make_learner, steps_an_epoch, train_epoch
from edgeres.training.gradient_check import LayoutName
from edgeres.training.layout import choose_layout, lay_out
from edgeres.training.loss import distills
from edgeres.training.objective import Classes, Objective, Score
from edgeres.training.samples import Samples, check_augmentation, load_samples
from edgeres.training.state import TrainState, load_state, save_log, save_state
from edgeres.training.summary import EpochRecord, Weights

CHECKPOINT_NAME = "model.safetensors"
STATE_NAME = "train_state.pt"
LOG_NAME = "train_log.jsonl"


@dataclass(frozen=True)
class TrainResult:
    """What a finished training left.

    Attributes:
        checkpoint: The chosen epoch's weights, as safetensors.
        log: One JSON line an epoch.
        best_epoch: The chosen epoch, from 1; the latest one where several are equal. 0 where no
            epoch was as good as the start.
        weights: Which weights of that epoch were kept.
        held_out_top1: Their top-1 on the held-out images, in [0, 1].
        start_top1: Of ``start`` on those; ``None`` where it could not be kept.
        history: All epochs.
        resumed_from: Epochs that an earlier, interrupted run had done.
    """

    checkpoint: Path
    log: Path
    best_epoch: int
    weights: Weights
    held_out_top1: float
    start_top1: float | None
    history: tuple[EpochRecord, ...]
    resumed_from: int


def train(
    settings: Training,
    train_set: Dataset,
    held_out: Dataset,
    output: Path,
    *,
    start: Checkpoint | None = None,
    preprocess: Preprocess | None = None,
    teacher: nn.Module | None = None,
    keep_start: bool = True,
    progress: ProgressCallback | None = None,
) -> TrainResult:
    """Trains from scratch, or on from ``start``, and keeps what is best on ``held_out``.

    Raw and averaged weights of each epoch are scored, and ``start`` itself: a training that makes a
    network worse gives it back as it was.

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
        teacher: Network to distil from, on the same preprocessed images; it is put into
            evaluation mode. Used where ``settings`` distil.
        keep_start: Whether ``start`` may be the result. Not where the training is for something
            else than accuracy.
        progress: Called with (steps done, steps of the run).

    Raises:
        UsageError: No preprocessing given, distillation without a teacher, or settings of another
            kind of training from scratch.
        DataError: Data that does not fit the network, or too few images.
        BackendMissingError: The device is not here.
        ArtefactError: ``output`` holds the state of another training.
        StageError: The loss is not finite any more, or this CPU's gradients are wrong in every
            memory layout.
        StorageError: ``output`` cannot be written.
    """
    if not distills(settings):
        teacher = None
    elif teacher is None:
        raise UsageError(
            "the settings say distill: true, but there is no teacher.",
            hint="Give a teacher or set distill to false.",
        )
    preprocess = choose_preprocess(preprocess, start, train_set)
    plan = choose_plan(settings, train_set, preprocess, start)
    check_labels(plan.num_classes, train_set, held_out)
    module = first_network(settings, plan, start)
    state, done = fit(
        module,
        settings,
        train_set,
        held_out,
        output,
        preprocess=preprocess,
        teacher=teacher,
        keep_start=keep_start and start is not None,
        progress=progress,
    )
    final = Checkpoint(
        plan=plan,
        state=dict(state.best),
        preprocess=preprocess,
        class_names=train_set.class_names,
        metadata={
            "held_out_top1": f"{state.best_score:.4f}",
            "epoch": str(state.best_epoch),
            "weights": state.best_weights,
            "training": json.dumps(settings.model_dump(mode="json"), sort_keys=True),
        },
    )
    save_checkpoint(output / CHECKPOINT_NAME, final)
    save_log(output / LOG_NAME, state.history)
    return TrainResult(
        checkpoint=output / CHECKPOINT_NAME,
        log=output / LOG_NAME,
        best_epoch=state.best_epoch,
        weights=state.best_weights,
        held_out_top1=state.best_score,
        start_top1=state.start_score,
        history=state.history,
        resumed_from=done,
    )


def fit(
    module: nn.Module,
    settings: Training,
    train_set: Dataset,
    held_out: Dataset,
    output: Path,
    *,
    preprocess: Preprocess,
    teacher: nn.Module | None = None,
    identity: str = "",
    keep_start: bool = False,
    objective: Objective | None = None,
    progress: ProgressCallback | None = None,
) -> tuple[TrainState, int]:
    """Trains any module, resumably; what :func:`train` does once it has a network.

    Args:
        module: In its first state; changed in place.
        settings: Of the run.
        train_set: Images to learn from.
        held_out: Images for choosing the epoch.
        output: Folder of state and log.
        preprocess: Of the network.
        teacher: Network to distil from.
        identity: Whatever else than arguments and weights decides the result.
        keep_start: Whether the first state may be the best one.
        objective: What is learned; classes where it is ``None``.
        progress: Called with (steps done, steps of the run).

    Returns:
        The state after the last epoch, and how many epochs an earlier run had done.

    Raises:
        EdgeResError: As :func:`train`.
    """
    with disk_errors(output):
        output.mkdir(parents=True, exist_ok=True)
    check_augmentation(settings, preprocess, train_set.name)
    place = choose_device(settings)
    sets = (train_set, held_out)
    identity = fingerprint(
        settings, sets, preprocess, module, teacher, also=f"{identity}{keep_start}"
    )
    state = load_state(output / STATE_NAME, identity)
    done = 0 if state is None else len(state.history)
    if state is None or done < settings.epochs:
        with cpu_threads(settings.threads), freed_memory_kept():
            data = load_samples(train_set, preprocess, device=place.device)
            module = module.to(place.device)
            layout = choose_layout(module, data.inputs(slice(1)), place)
            module = lay_out(module, layout)
            if teacher is not None:
                teacher = lay_out(teacher.to(place.device), layout).eval()
            run = _Run(
                settings=settings,
                learner=make_learner(module, settings, place),
                data=data,
                check=load_samples(held_out, preprocess, device=place.device),
                place=place,
                layout=layout,
                teacher=teacher,
                identity=identity,
                keep_start=keep_start,
                output=output,
                objective=objective or Classes(),
            )
            state = run.finish(state, progress)
    return state, done


@dataclass(frozen=True)
class _Run:
    """All that stays the same while the epochs pass."""

    settings: Training
    learner: Learner
    data: Samples
    check: Samples
    place: TorchDevice
    layout: LayoutName
    teacher: nn.Module | None
    identity: str
    keep_start: bool
    output: Path
    objective: Objective

    def finish(self, state: TrainState | None, progress: ProgressCallback | None) -> TrainState:
        """Trains the epochs that are left, saving state and log after each."""
        if state is not None:
            _restore(self.learner, state)
        first = 0 if state is None else len(state.history)
        steps = steps_an_epoch(len(self.data), self.settings)
        done = first * steps
        start = None if state is not None or not self.keep_start else self._start()

        def on_step() -> None:
            nonlocal done
            done += 1
            if progress is not None:
                progress(done, self.settings.epochs * steps)

        state = self.epoch(state, on_step, start)
        while len(state.history) < self.settings.epochs:
            state = self.epoch(state, on_step)
        return state

    def _start(self) -> _Candidate:
        """The network before the first step."""
        return self._candidate("start", self.learner.module)

    def _candidate(self, kind: Weights, module: nn.Module) -> _Candidate:
        score = self.objective.evaluate(module, self.check, self.teacher)
        return _Candidate(kind, _weights(module), score)

    def epoch(
        self,
        before: TrainState | None,
        on_step: Callable[[], None],
        start: _Candidate | None = None,
    ) -> TrainState:
        """Trains one epoch, evaluates it and saves; ``start`` comes before the first one."""
        begun = time.monotonic()
        history = () if before is None else before.history
        number = len(history) + 1
        learner = self.learner
        loss, top1 = train_epoch(
            learner,
            self.data,
            self.settings,
            number - 1,
            place=self.place,
            layout=self.layout,
            objective=self.objective,
            teacher=self.teacher,
            on_step=on_step,
        )
        candidates = [self._candidate(kind, module) for kind, module in learner.candidates.items()]
        new = max(candidates, key=lambda candidate: candidate.score.value)
        record = EpochRecord(
            epoch=number,
            loss=loss,
            top1=top1,
            held_out_loss=new.score.loss,
            held_out_top1=new.score.top1,
            held_out_sqnr_db=new.score.sqnr_db,
            weights=new.kind,
            learning_rate=float(learner.optimizer.param_groups[0]["lr"]),
            seconds=round(time.monotonic() - begun, 3),
        )
        best, best_epoch = new.weights, number
        start_score = None if start is None else start.score.value
        if before is not None:
            start_score = before.start_score
            if new.score.value < before.best_score:
                best, best_epoch = before.best, before.best_epoch
        elif start is not None and new.score.value < start.score.value:
            best, best_epoch = start.weights, 0
        average = learner.average
        state = TrainState(
            fingerprint=self.identity,
            history=(*history, record),
            module=_weights(learner.module),
            optimizer=learner.optimizer.state_dict(),
            scaler=learner.scaler.state_dict(),
            average={} if average is None else _weights(average.module),
            updates=0 if average is None else average.updates,
            best=best,
            best_epoch=best_epoch,
            start_score=start_score,
        )
        save_state(self.output / STATE_NAME, state)
        save_log(self.output / LOG_NAME, state.history)
        return state


@dataclass(frozen=True)
class _Candidate:
    """Weights that may be kept, and what they do on the held-out images."""

    kind: Weights
    weights: dict[str, torch.Tensor]
    score: Score


def _weights(module: nn.Module) -> dict[str, torch.Tensor]:
    """A copy on the CPU that later steps do not change."""
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in module.state_dict().items()
    }


def _restore(learner: Learner, state: TrainState) -> None:
    learner.module.load_state_dict(state.module)
    learner.optimizer.load_state_dict(state.optimizer)
    if state.scaler:
        learner.scaler.load_state_dict(state.scaler)
    if learner.average is not None:
        learner.average.module.load_state_dict(state.average)
        learner.average.updates = state.updates
