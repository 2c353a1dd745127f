"""What pruning is told, as plain values that a recipe can carry. No torch is imported here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from edgeres.errors import UsageError
from edgeres.recipe.compress import PruneBlock
from edgeres.training.settings import TrainSettings

Importance = Literal["l1", "l2", "fpgm", "bn_scale", "taylor", "taylor_hessian"]
Normalization = Literal["none", "mean", "lamp"]
Allocation = Literal["uniform", "global", "latency", "per_layer"]


def sparse_settings(epochs: int, strength: float, **changes: Any) -> TrainSettings:
    """Settings of sparse learning before pruning: network slimming (arXiv:1708.06519).

    Args:
        epochs: Of training with the penalty.
        strength: Weight of the absolute scales of batch normalization in the loss.
        changes: Other fields that differ from the fine-tuning's.
    """
    return finetune_settings(epochs=epochs, bn_l1=strength, distill_weight=0.0, **changes)


def finetune_settings(**changes: Any) -> TrainSettings:
    """Settings of the fine-tuning after pruning: gentler than training, led by the dense network.

    Args:
        changes: Fields of :class:`~edgeres.training.settings.TrainSettings` that differ.
    """
    chosen: dict[str, Any] = {
        "epochs": 20,
        "learning_rate": 0.05,
        "schedule": "one_cycle",
        "warmup_fraction": 0.1,
        "label_smoothing": 0.0,
        "distill_weight": 0.9,
        **changes,
    }
    return TrainSettings(**chosen)


@dataclass(frozen=True)
class PruneSettings:
    """How much is pruned, where, what is kept, and how accuracy is recovered.

    Attributes:
        macs_ratio: Multiply-adds to keep, in (0, 1): the largest reachable ratio that is not above
            it. With ``latency`` and ``per_layer`` it is not used.
        importance: What a channel is worth.
        normalization: Makes scores of different groups comparable: ``none`` for the gate-based
            ones, which are in units of the loss already.
        allocation: ``uniform`` keeps the same share of every group; ``global`` removes what loses
            least importance for the multiply-adds it saves; ``latency`` what loses least for the
            milliseconds it saves on a device; ``per_layer`` takes ``widths``.
        widths: Kept channels by group name (the first convolution that writes the group), for
            ``per_layer``; a group that is not named stays whole.
        round_to: Widths are multiples of this (and of a convolution group's width); a group that
            is narrower stays whole.
        min_share: Least share of a group's channels that stays; where training comes between the
            rounds, of those that a round finds.
        exclude: Groups that stay whole, by name.
        steps: Rounds of pruning; importance is computed again before each.
        samples: Images for importance and for the statistics of batch normalization.
        seed: Chooses those images.
        finetune: Training after the last round, with the dense network as teacher where its
            ``distill_weight`` is above 0; ``None`` leaves the recalibrated network as it is.
        epochs_between: Epochs of that training after each round but the last.
        sparse: Training before the first round that drives scales of little use to zero; best with
            importance ``bn_scale``.
        target_latency: Latency to reach with ``latency``, as a share of the full network's on the
            same device in the same precision, in (0, 1); ``None`` with the other allocations.
    """

    macs_ratio: float = 0.5
    importance: Importance = "taylor_hessian"
    normalization: Normalization = "none"
    allocation: Allocation = "global"
    widths: Mapping[str, int] = field(default_factory=dict)
    round_to: int = 8
    min_share: float = 0.1
    exclude: tuple[str, ...] = ()
    steps: int = 1
    samples: int = 1024
    seed: int = 0
    finetune: TrainSettings | None = field(default_factory=finetune_settings)
    epochs_between: int = 0
    target_latency: float | None = None
    sparse: TrainSettings | None = None

    def __post_init__(self) -> None:
        """Checks every field.

        Raises:
            UsageError: Naming the field, what was expected and what was got.
        """
        ratio = self.macs_ratio
        checks = (
            ("macs_ratio", not math.isnan(ratio) and 0 < ratio < 1, "above 0 and below 1", ratio),
            *(
                (name, value in get_args(choices), f"one of {', '.join(get_args(choices))}", value)
                for name, value, choices in (
                    ("importance", self.importance, Importance),
                    ("normalization", self.normalization, Normalization),
                    ("allocation", self.allocation, Allocation),
                )
            ),
            ("round_to", self.round_to >= 1, "at least 1", self.round_to),
            ("min_share", 0 < self.min_share <= 1, "above 0 and at most 1", self.min_share),
            ("steps", 1 <= self.steps <= 100, "in 1 to 100", self.steps),
            ("samples", self.samples >= 2, "at least 2", self.samples),
            (
                "epochs_between",
                self.epochs_between == 0 or (self.epochs_between > 0 and self.finetune is not None),
                "at least 0, and 0 without fine-tuning",
                self.epochs_between,
            ),
            (
                "sparse",
                self.sparse is None or self.sparse.bn_l1 > 0,
                "a training with bn_l1 above 0",
                self.sparse,
            ),
            (
                "target_latency",
                (self.target_latency is not None) == (self.allocation == "latency")
                and (self.target_latency is None or 0 < self.target_latency < 1),
                "above 0 and below 1 with allocation 'latency', and only with it",
                self.target_latency,
            ),
            (
                "widths",
                bool(self.widths) == (self.allocation == "per_layer"),
                "widths with allocation 'per_layer', and only with it",
                dict(self.widths),
            ),
        )
        for name, good, expected, got in checks:
            if not good:
                raise UsageError(
                    f"Expected pruning setting '{name}' {expected}, got {got!r}.",
                    hint="Correct the recipe's prune block or the command line.",
                )
        for group, width in self.widths.items():
            if width < 1:
                raise UsageError(
                    f"Expected at least 1 channel in '{group}', got {width}.",
                    hint="Whole layers cannot be removed.",
                )


def prune_settings(block: PruneBlock) -> PruneSettings:
    """What a recipe's ``prune:`` says, for the stage.

    Raises:
        UsageError: Values that do not go together.
    """
    values = block.model_dump(exclude={"finetune", "latency_on", "sparse"})
    tune = None
    if block.finetune is not None:
        training = block.finetune.model_dump(exclude={"distill"})
        weight = {} if block.finetune.distill else {"distill_weight": 0.0}
        tune = finetune_settings(**training, **weight)
    sparse = None
    if block.sparse is not None:
        same = () if block.finetune is None else ("batch_size", "held_out", "seed")
        shared = {name: getattr(block.finetune, name) for name in same}
        sparse = sparse_settings(block.sparse.epochs, block.sparse.strength, **shared)
    return PruneSettings(**values, finetune=tune, sparse=sparse)
