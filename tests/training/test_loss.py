"""Loss with and without a teacher, against the formulas."""

from __future__ import annotations

import pytest
import torch

from edgeres.recipe.training import FinetuneSettings, TrainSettings
from edgeres.training.loss import training_loss

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.0, 1.0, 3.0]])
LABELS = torch.tensor([0, 1])


def test_label_smoothing() -> None:
    log_p = torch.log_softmax(LOGITS, 1)
    target = torch.full((2, 3), 0.3 / 3)
    target[torch.arange(2), LABELS] += 0.7
    expected = float(-(target * log_p).sum(1).mean())
    loss = training_loss(LOGITS, LABELS, TrainSettings(label_smoothing=0.3), None)
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_distillation_formula() -> None:
    teacher = torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 1.0]])
    settings = FinetuneSettings(distill_weight=0.25, distill_temperature=3.0)
    p = torch.softmax(teacher / 3, 1)
    soft = (p * (torch.log(p) - torch.log_softmax(LOGITS / 3, 1))).sum(1).mean()
    hard = torch.nn.functional.cross_entropy(LOGITS, LABELS)
    expected = float(0.75 * hard + 0.25 * 9 * soft)
    assert float(training_loss(LOGITS, LABELS, settings, teacher)) == pytest.approx(
        expected, rel=1e-5
    )


def test_a_student_that_equals_its_teacher_has_no_soft_loss() -> None:
    settings = FinetuneSettings(distill_weight=1.0)
    assert float(training_loss(LOGITS, LABELS, settings, LOGITS)) == pytest.approx(0, abs=1e-6)
