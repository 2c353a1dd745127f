"""The loss: cross-entropy with label smoothing, and a teacher's word where there is one."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from edgeres.recipe.training import TaughtTraining, Training


def distills(settings: Training) -> bool:
    """Whether a teacher's outputs are followed."""
    return isinstance(settings, TaughtTraining) and settings.distill


def training_loss(
    logits: Tensor, labels: Tensor, settings: Training, teacher_logits: Tensor | None
) -> Tensor:
    """Mean loss of a batch.

    With a teacher: ``(1 - w) * cross_entropy + w * T^2 * KL(teacher || student)`` at temperature
    ``T``; the factor ``T^2`` keeps the size of the gradient (Hinton et al., arXiv:1503.02531,
    section 2).

    Args:
        logits: ``(N, K)``; computed in float32 whatever came in.
        labels: ``(N,) int64``.
        settings: Gives smoothing, and weight and temperature where it distils.
        teacher_logits: ``(N, K)`` of the same images, or ``None``.
    """
    logits = logits.float()
    hard = functional.cross_entropy(logits, labels, label_smoothing=settings.label_smoothing)
    if teacher_logits is None or not isinstance(settings, TaughtTraining):
        return hard
    temperature = settings.distill_temperature
    soft = functional.kl_div(
        torch.log_softmax(logits / temperature, dim=1),
        torch.log_softmax(teacher_logits.float() / temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    weight = settings.distill_weight
    return (1 - weight) * hard + weight * temperature**2 * soft
