"""What a training is for: the right classes, or the outputs of another network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeres.modules.answers import outputs_of
from edgeres.recipe.training import Training
from edgeres.sqnr import bounded_db, ratio_db
from edgeres.training.loss import training_loss
from edgeres.training.samples import Samples

EVALUATION_BATCH = 500

Outputs = Any
"""What a network gives: one output ``(N, ...)``, or several in a tuple or by name."""


@dataclass(frozen=True)
class Score:
    """What a network reaches on held-out samples.

    Attributes:
        loss: Mean loss.
        top1: In [0, 1]; ``None`` where outputs are followed.
        sqnr_db: How near the outputs are to those that are followed, each output with the same
            weight; ``None`` where classes are learned.
    """

    loss: float
    top1: float | None = None
    sqnr_db: float | None = None

    @property
    def value(self) -> float:
        """By which networks are compared; more is better."""
        value = self.top1 if self.sqnr_db is None else self.sqnr_db
        assert value is not None
        return value


class Objective(Protocol):
    """What is learned."""

    def loss(
        self, outputs: Outputs, labels: Tensor, settings: Training, taught: Outputs | None
    ) -> Tensor:
        """Mean loss of a batch.

        Args:
            outputs: Of the network that learns.
            labels: ``(N,) int64``.
            settings: Of the training.
            taught: Of the teacher, for the same samples.
        """
        ...

    def right(self, outputs: Outputs, labels: Tensor) -> Tensor | None:
        """How many samples are classified rightly; ``None`` where there are no classes."""
        ...

    def evaluate(self, module: nn.Module, data: Samples, teacher: nn.Module | None) -> Score:
        """What a network reaches without augmentation, in float32; it is put into evaluation mode.

        Args:
            module: The network.
            data: Held-out samples, on its device.
            teacher: The network that is followed.
        """
        ...


class Classes:
    """Learns the right class: one output ``(N, K)``; a teacher's word counts where there is one."""

    def loss(
        self, outputs: Outputs, labels: Tensor, settings: Training, taught: Outputs | None
    ) -> Tensor:
        """See :func:`~edgeres.training.loss.training_loss`."""
        return training_loss(outputs, labels, settings, taught)

    def right(self, outputs: Outputs, labels: Tensor) -> Tensor:
        """Samples whose largest score is that of their class."""
        right: Tensor = (outputs.detach().argmax(1) == labels).sum()
        return right

    @torch.inference_mode()
    def evaluate(self, module: nn.Module, data: Samples, teacher: nn.Module | None) -> Score:
        """Mean cross-entropy and top-1."""
        module.eval()
        loss = 0.0
        right = 0
        for start in range(0, len(data), EVALUATION_BATCH):
            part = slice(start, start + EVALUATION_BATCH)
            labels = data.labels[part]
            logits = module(data.inputs(part))
            loss += float(functional.cross_entropy(logits, labels, reduction="sum"))
            right += int((logits.argmax(1) == labels).sum())
        return Score(loss / len(data), top1=right / len(data))


class Following:
    """Learns a teacher's outputs, any number and of any shape; labels are not looked at.

    The loss is noise over signal, the mean over the outputs, so that each counts alike.
    """

    def loss(
        self, outputs: Outputs, labels: Tensor, settings: Training, taught: Outputs | None
    ) -> Tensor:
        """Mean of noise over signal, computed in float32."""
        pairs = _pairs(outputs, taught)
        shares = [
            (own - wanted).square().sum() / wanted.square().sum().clamp_min(_LEAST)
            for own, wanted in pairs
        ]
        return torch.stack(shares).mean()

    def right(self, outputs: Outputs, labels: Tensor) -> None:
        """Nothing is right or wrong."""

    @torch.inference_mode()
    def evaluate(self, module: nn.Module, data: Samples, teacher: nn.Module | None) -> Score:
        """Noise over signal of the whole set, and the same in decibels."""
        assert teacher is not None
        module.eval()
        sums: list[list[float]] = []
        for start in range(0, len(data), EVALUATION_BATCH):
            inputs = data.inputs(slice(start, start + EVALUATION_BATCH))
            for place, (own, wanted) in enumerate(_pairs(module(inputs), teacher(inputs))):
                if place == len(sums):
                    sums.append([0.0, 0.0])
                sums[place][0] += float(wanted.double().square().sum())
                sums[place][1] += float((own.double() - wanted.double()).square().sum())
        share = sum(noise / max(signal, _LEAST) for signal, noise in sums) / len(sums)
        return Score(share, sqnr_db=bounded_db(ratio_db(1.0, share)))


_LEAST = 1e-30


def _pairs(outputs: Any, taught: Any) -> list[tuple[Tensor, Tensor]]:
    """Each output with the teacher's, float32."""
    own, wanted = outputs_of(outputs), outputs_of(taught)
    return [(own[name].float(), wanted[name].float()) for name in wanted]
