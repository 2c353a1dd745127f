"""What a training run is told, as plain values that a recipe can carry."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from edgeres.errors import UsageError

# Fields that change where or how fast a run computes, not what it computes.
_PLACE = frozenset({"device", "threads"})


@dataclass(frozen=True)
class TrainSettings:
    """All knobs of a training run; the defaults are those of the reference network.

    Attributes:
        architecture: Name for :func:`edgeres.models.plan.plan_for`; a start checkpoint overrides
            it.
        width_multiplier: Scales every width of the architecture.
        epochs: Passes over the training images.
        batch_size: Images a step; a last partial batch is dropped.
        learning_rate: Peak of the schedule.
        schedule: ``one_cycle`` (linear warm-up, then cosine) or ``cosine`` (no warm-up).
        warmup_fraction: Share of the steps that ``one_cycle`` warms up.
        final_fraction: Learning rate of the last step over the peak.
        momentum: Nesterov momentum of SGD.
        weight_decay: L2 decay of convolution and classifier weights (not of biases and BN).
        label_smoothing: Probability mass spread over all classes (arXiv:1512.00567).
        flip: Mirror half of the images left to right.
        crop_padding: Pixels of black border before a random crop back to size.
        erase_probability: Chance that a random rectangle becomes noise (arXiv:1708.04896).
        erase_area: Smallest and largest share of the image that is erased.
        ema_decay: Decay of the moving average of the weights a step; 0 trains without one.
        distill_weight: Share of the loss that follows a teacher's outputs; needs a teacher.
        distill_temperature: Softens both outputs before they are compared (arXiv:1503.02531).
        zero_init_residual: Start each residual branch at zero when training from scratch.
        precision: ``auto`` is float32 on a CPU (bfloat16 was measured slower there) and mixed
            precision on a GPU.
        device: ``auto``, ``cpu`` or ``cuda:N``.
        threads: CPU threads; ``None`` leaves torch's choice.
        seed: Seeds weights, order and augmentation.
        held_out: Training images set aside, class-balanced, for choosing the epoch.
        bn_l1: Weight of the sum of batch normalization's absolute scales in the loss
            (arXiv:1708.06519, eq. 1), which drives scales of little use to zero.
    """

    architecture: str = "resnet20"
    width_multiplier: float = 1.0
    epochs: int = 60
    batch_size: int = 256
    learning_rate: float = 0.2
    schedule: Literal["one_cycle", "cosine"] = "one_cycle"
    warmup_fraction: float = 0.2
    final_fraction: float = 0.001
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.05
    flip: bool = True
    crop_padding: int = 2
    erase_probability: float = 0.25
    erase_area: tuple[float, float] = (0.02, 0.3)
    ema_decay: float = 0.998
    distill_weight: float = 0.0
    distill_temperature: float = 4.0
    zero_init_residual: bool = True
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = "auto"
    threads: int | None = None
    seed: int = 0
    held_out: int = 5000
    bn_l1: float = 0.0

    def __post_init__(self) -> None:
        """Checks every range.

        Raises:
            UsageError: Naming the field, what was expected and what was got.
        """
        low, high = self.erase_area
        checks = (
            ("epochs", self.epochs >= 1, "at least 1"),
            ("batch_size", self.batch_size >= 2, "at least 2 (batch normalization needs two)"),
            ("learning_rate", 0 < self.learning_rate < 100, "in (0, 100)"),
            ("width_multiplier", 0 < self.width_multiplier <= 16, "in (0, 16]"),
            ("warmup_fraction", 0 <= self.warmup_fraction < 1, "in [0, 1)"),
            ("final_fraction", 0 <= self.final_fraction <= 1, "in [0, 1]"),
            ("momentum", 0 < self.momentum < 1, "in (0, 1)"),
            ("weight_decay", 0 <= self.weight_decay < 1, "in [0, 1)"),
            ("label_smoothing", 0 <= self.label_smoothing < 1, "in [0, 1)"),
            ("crop_padding", self.crop_padding >= 0, "at least 0"),
            ("erase_probability", 0 <= self.erase_probability <= 1, "in [0, 1]"),
            ("erase_area", 0 < low <= high < 1, "two rising shares in (0, 1)"),
            ("ema_decay", 0 <= self.ema_decay < 1, "in [0, 1)"),
            ("distill_weight", 0 <= self.distill_weight <= 1, "in [0, 1]"),
            ("distill_temperature", self.distill_temperature > 0, "above 0"),
            ("threads", self.threads is None or self.threads >= 1, "at least 1, or null"),
            ("held_out", self.held_out >= 1, "at least 1"),
            ("bn_l1", 0 <= self.bn_l1 < 1, "in [0, 1)"),
        )
        for name, good, expected in checks:
            if not good:
                raise UsageError(
                    f"Expected training setting '{name}' {expected}, got {getattr(self, name)}.",
                    hint="Correct the recipe's training block or the command line.",
                )

    @staticmethod
    def from_mapping(values: Mapping[str, Any]) -> TrainSettings:
        """Reads a recipe block; keys that are left out keep their defaults.

        Raises:
            UsageError: Unknown key, wrong type or value out of range.
        """
        known = typing.get_type_hints(TrainSettings)
        taken: dict[str, Any] = {}
        for key, value in values.items():
            if key not in known:
                raise UsageError(
                    f"Unknown training setting '{key}'.", hint=f"Known: {', '.join(known)}."
                )
            taken[key] = _fit(key, value, known[key])
        return TrainSettings(**taken)

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for YAML or JSON; :meth:`from_mapping` reads them back."""
        values = dataclasses.asdict(self)
        if self.bn_l1 == 0:
            del values["bn_l1"]  # runs that began before it was there go on
        return values | {"erase_area": list(self.erase_area)}

    def fingerprint(self) -> str:
        """SHA-256 of what decides the result, so a resumed run continues the same training."""
        values = {k: v for k, v in self.to_mapping().items() if k not in _PLACE}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _fit(key: str, value: Any, expected: Any) -> Any:
    """Checks a plain value against a field's type; an int fits a float, a list fits a tuple."""
    if typing.get_origin(expected) is Literal:
        fits = value in typing.get_args(expected)
    elif typing.get_origin(expected) is tuple:
        members = typing.get_args(expected)
        fits = isinstance(value, list | tuple) and len(value) == len(members)
        if fits:
            return tuple(_fit(key, v, m) for v, m in zip(value, members, strict=True))
    elif isinstance(expected, types.UnionType):
        fits = value is None or (isinstance(value, int) and not isinstance(value, bool))
    elif expected is float:
        fits = isinstance(value, int | float) and not isinstance(value, bool)
        value = float(value) if fits else value
    else:
        fits = type(value) is expected
    if not fits:
        name = getattr(expected, "__name__", str(expected))
        raise UsageError(
            f"Expected training setting '{key}' of type {name}, got {value!r}.",
            hint="Correct the recipe's training block.",
        )
    return value
