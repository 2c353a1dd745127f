"""Settings of quantization-aware training, as plain values. No torch is imported here."""

from __future__ import annotations

from typing import Any

from edgeres.recipe.compress import QatBlock
from edgeres.training.settings import TrainSettings


def qat_settings(**changes: Any) -> TrainSettings:
    """Settings of a short training that starts from calibrated INT8: gentle, led by the network.

    Batch normalization is folded, so nothing rescales the weights: the learning rate is small and
    weights are not decayed. Arithmetic is float32, as bfloat16 has too few digits for
    dequantized integers.

    Args:
        changes: Fields of :class:`~edgeres.training.settings.TrainSettings` that differ.
    """
    chosen: dict[str, Any] = {
        "epochs": 2,
        "batch_size": 128,
        "learning_rate": 0.0005,
        "schedule": "one_cycle",
        "warmup_fraction": 0.1,
        "weight_decay": 0.0,
        "label_smoothing": 0.0,
        "erase_probability": 0.0,
        "distill_weight": 0.9,
        "precision": "float32",
        **changes,
    }
    return TrainSettings(**chosen)


def settings_of(block: QatBlock) -> TrainSettings:
    """What a recipe's ``quantize.qat:`` says, for the training loop."""
    weight = {} if block.distill else {"distill_weight": 0.0}
    return qat_settings(**block.model_dump(exclude={"distill"}), **weight)
