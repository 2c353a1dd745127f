"""What a training tells of itself, as it is stored. No torch is imported here."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

from edgeres.system.child import JsonValue

Weights = Literal["start", "raw", "averaged"]
"""What a training may keep: the network that it began with, its weights, or their average."""


@dataclass(frozen=True)
class EpochRecord:
    """One line of the training log.

    Attributes:
        epoch: From 1.
        loss: Mean training loss.
        top1: Share of augmented training images that were classified rightly, in [0, 1].
        held_out_loss: Cross-entropy on the held-out images.
        held_out_top1: On the held-out images, of the better of raw and averaged weights.
        weights: Which of the two that was.
        learning_rate: Of the epoch's last step.
        seconds: Wall time of the epoch with its evaluation.
    """

    epoch: int
    loss: float
    top1: float
    held_out_loss: float
    held_out_top1: float
    weights: Weights
    learning_rate: float
    seconds: float


@dataclass(frozen=True)
class QatSummary:
    """The numbers of a quantization-aware training.

    Attributes:
        kept: ``start`` where no epoch was as good as the calibrated start on the held-out images,
            which is then what was kept.
        start_top1: Of the calibrated start on the held-out images, in [0, 1].
        held_out_top1: Of what was kept.
        best_epoch: The chosen epoch, from 1.
        held_out: Number of held-out images.
        history: All epochs.
    """

    kept: Literal["trained", "start"]
    start_top1: float
    held_out_top1: float
    best_epoch: int
    held_out: int
    history: tuple[EpochRecord, ...]

    def to_dict(self) -> dict[str, JsonValue]:
        """As plain JSON values."""
        numbers = {name: getattr(self, name) for name in _NUMBERS}
        return {**numbers, "history": [asdict(record) for record in self.history]}


_NUMBERS = ("kept", "start_top1", "held_out_top1", "best_epoch", "held_out")
