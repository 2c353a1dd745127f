"""One pass over the training samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from edgeres.errors import StageError
from edgeres.recipe.training import SparseSettings, Training
from edgeres.training.device import TorchDevice
from edgeres.training.ema import MovingAverage
from edgeres.training.gradient_check import LayoutName
from edgeres.training.layout import lay_out_images
from edgeres.training.objective import Classes, Objective
from edgeres.training.samples import Samples
from edgeres.training.schedule import learning_rate
from edgeres.training.summary import Weights


@dataclass
class Learner:
    """What changes during training: the network, its optimizer and its average."""

    module: nn.Module
    optimizer: torch.optim.SGD
    scaler: torch.amp.GradScaler
    average: MovingAverage | None

    @property
    def candidates(self) -> dict[Weights, nn.Module]:
        """What may be kept of an epoch, the first of equals."""
        if self.average is None:
            return {"raw": self.module}
        return {"averaged": self.average.module, "raw": self.module}


def make_learner(module: nn.Module, settings: Training, place: TorchDevice) -> Learner:
    """SGD with Nesterov momentum; biases and batch normalization are not decayed."""
    decayed = [p for p in module.parameters() if p.ndim > 1]
    free = [p for p in module.parameters() if p.ndim <= 1]
    optimizer = torch.optim.SGD(
        [
            {"params": decayed, "weight_decay": settings.weight_decay},
            {"params": free, "weight_decay": 0.0},
        ],
        lr=settings.learning_rate,
        momentum=settings.momentum,
        nesterov=True,
    )
    average = MovingAverage(module, settings.ema_decay) if settings.ema_decay > 0 else None
    return Learner(module, optimizer, place.scaler(), average)


def steps_an_epoch(images: int, settings: Training) -> int:
    """Full batches in one pass; a set smaller than a batch makes one small batch."""
    return max(1, images // settings.batch_size)


def train_epoch(
    learner: Learner,
    data: Samples,
    settings: Training,
    epoch: int,
    *,
    place: TorchDevice,
    layout: LayoutName = "channels_last",
    objective: Objective | None = None,
    teacher: nn.Module | None = None,
    on_step: Callable[[], None] | None = None,
) -> tuple[float, float | None]:
    """Trains one epoch; order and augmentation depend on seed and epoch alone.

    Args:
        learner: Changed in place.
        data: Training samples.
        settings: Of the run.
        epoch: From 0.
        place: Device and precision.
        layout: Of the images; the network's weights have it already.
        objective: What is learned; classes where it is ``None``.
        teacher: Network in evaluation mode to learn from.
        on_step: Called after each step.

    Returns:
        Mean loss, and top-1 on the augmented images in [0, 1], where classes are learned.

    Raises:
        StageError: The loss is not finite any more.
    """
    objective = objective or Classes()
    generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + epoch)
    order = torch.randperm(len(data), generator=generator)
    steps = steps_an_epoch(len(data), settings)
    size = min(settings.batch_size, len(data))
    learner.module.train()
    loss_sum = torch.zeros((), device=place.device)
    right: torch.Tensor | None = torch.zeros((), device=place.device)
    for step in range(steps):
        rate = learning_rate(settings, epoch * steps + step, settings.epochs * steps)
        for group in learner.optimizer.param_groups:
            group["lr"] = rate
        chosen = order[step * size : (step + 1) * size].to(place.device)
        images = lay_out_images(data.augmented(chosen, settings, generator), layout)
        labels = data.labels[chosen]
        with place.autocast():
            taught = None
            if teacher is not None:
                with torch.no_grad():
                    taught = teacher(images)
            logits = learner.module(images)
        loss = objective.loss(logits, labels, settings, taught)
        if isinstance(settings, SparseSettings):
            loss = loss + settings.strength * _norm_scales(learner.module)
        learner.optimizer.zero_grad()
        learner.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        learner.scaler.step(learner.optimizer)
        learner.scaler.update()
        if learner.average is not None:
            learner.average.update()
        loss_sum += loss.detach()
        found = objective.right(logits, labels)
        right = None if right is None or found is None else right + found
        if on_step is not None:
            on_step()
    mean_loss = float(loss_sum) / steps
    if not torch.isfinite(loss_sum):
        raise StageError(
            f"The training loss became {mean_loss} in epoch {epoch + 1}.",
            hint=f"Lower the learning rate (now {settings.learning_rate}).",
        )
    return mean_loss, None if right is None else float(right) / (steps * size)


def _norm_scales(module: nn.Module) -> torch.Tensor:
    """Sum of the absolute scales of all batch normalizations."""
    norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
    return torch.stack([norm.weight.abs().sum() for norm in norms]).sum()
