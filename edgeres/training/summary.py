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
        top1: Share of augmented training images that were classified rightly, in [0, 1]; ``None``
            where the outputs of another network are followed.
        held_out_loss: Cross-entropy on the held-out images, or noise over signal.
        held_out_top1: On the held-out images, of the better of raw and averaged weights, likewise.
        weights: Which of the two that was.
        learning_rate: Of the epoch's last step.
        seconds: Wall time of the epoch with its evaluation.
        held_out_sqnr_db: How near the outputs are on the held-out images, where they are followed.
    """

    epoch: int
    loss: float
    top1: float | None
    held_out_loss: float
    held_out_top1: float | None
    weights: Weights
    learning_rate: float
    seconds: float
    held_out_sqnr_db: float | None = None

    @property
    def score(self) -> float:
        """By which epochs are compared; more is better."""
        score = self.held_out_top1 if self.held_out_sqnr_db is None else self.held_out_sqnr_db
        assert score is not None
        return score


@dataclass(frozen=True, kw_only=True)
class QatSummary:
    """The numbers of a quantization-aware training.

    Attributes:
        kept: ``start`` where no epoch was as good as the calibrated start on the held-out images,
            which is then what was kept.
        start_top1: Of the calibrated start on the held-out images, in [0, 1]; ``None`` where the
            network is no classifier.
        held_out_top1: Of what was kept, likewise.
        best_epoch: The chosen epoch, from 1.
        held_out: Number of held-out images.
        history: All epochs.
        start_sqnr_db: Of the calibrated start's outputs, where the network is no classifier.
        held_out_sqnr_db: Of what was kept, likewise.
    """

    kept: Literal["trained", "start"]
    start_top1: float | None
    held_out_top1: float | None
    best_epoch: int
    held_out: int
    history: tuple[EpochRecord, ...]
    start_sqnr_db: float | None = None
    held_out_sqnr_db: float | None = None

    def to_dict(self) -> dict[str, JsonValue]:
        """As plain JSON values."""
        numbers = {name: getattr(self, name) for name in _NUMBERS}
        return {**numbers, "history": [asdict(record) for record in self.history]}


_NUMBERS = (
    "kept",
    "start_top1",
    "held_out_top1",
    "best_epoch",
    "held_out",
    "start_sqnr_db",
    "held_out_sqnr_db",
)
