"""What a search may try, and how a try becomes a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, get_args

from edgeres.backends import target_names
from edgeres.calibrators import calibrator_names
from edgeres.errors import UsageError
from edgeres.recipe.compress import PruneBlock
from edgeres.recipe.recipe import Recipe, is_onnx

WHOLE = 1.0
"""The budget of a network that is not pruned."""
INT8, MIXED, FP32 = "int8", "int8_mixed", "fp32"
PRECISIONS = (INT8, MIXED, FP32)
_GATE_BASED = ("taylor", "taylor_hessian")


@dataclass(frozen=True)
class TuneSettings:
    """The space of a search and its length.

    Attributes:
        trials: Tries in all, those of an earlier run in the same folder among them.
        budgets: Shares to prune to, of multiply-adds or (where the recipe prunes by latency) of
            the dense INT8 latency; 1 is no pruning.
        importances: What a channel is worth.
        calibrators: Where activation ranges come from.
        precisions: ``int8``, ``fp32``, and ``int8_mixed`` with the recipe's `mixed_precision:`
            block; empty takes the first two, and the third where the recipe has that block.
        targets: Backends; empty takes those of the recipe that run here.
        epochs: Of fine-tuning in a try, 0 for none; ``None`` takes the recipe's. The winning recipe
            has the recipe's own.
        seed: Of the search.
    """

    trials: int = 30
    budgets: tuple[float, ...] = (1.0, 0.8, 0.65, 0.5)
    importances: tuple[str, ...] = ("taylor_hessian", "l2", "bn_scale")
    calibrators: tuple[str, ...] = field(default_factory=calibrator_names)
    precisions: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    epochs: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks every field.

        Raises:
            UsageError: Naming what was expected.
        """
        known = {
            "importances": get_args(PruneBlock.model_fields["importance"].annotation),
            "calibrators": calibrator_names(),
            "precisions": PRECISIONS,
            "targets": target_names(),
        }
        checks = [
            ("trials", self.trials >= 1, "at least 1"),
            ("epochs", self.epochs is None or self.epochs >= 0, "at least 0"),
            ("budgets", all(0 < b <= WHOLE for b in self.budgets), "shares above 0 and at most 1"),
            *(
                (name, set(getattr(self, name)) <= set(names), f"some of {', '.join(names)}")
                for name, names in known.items()
            ),
            *(
                (field.name, bool(getattr(self, field.name)), "at least one")
                for field in fields(self)
                if field.name in ("budgets", "importances", "calibrators")
            ),
        ]
        for name, good, expected in checks:
            if not good:
                raise UsageError(
                    f"Expected {name} of the search to be {expected}, got {getattr(self, name)!r}.",
                    hint="Correct the option.",
                )

    @property
    def space(self) -> dict[str, Any]:
        """What two runs of one search must have in common."""
        return {name: value for name, value in asdict(self).items() if name != "trials"}


@dataclass(frozen=True)
class Candidate:
    """One point of the space.

    ``importance`` is empty without pruning, ``calibrator`` without quantization.
    """

    target: str
    budget: float
    importance: str
    calibrator: str
    precision: str = INT8

    @property
    def label(self) -> str:
        """In a few words."""
        pruned = "not pruned" if self.budget == WHOLE else f"{self.importance} to {self.budget:g}"
        how = self.calibrator if self.precision == INT8 else self.precision
        if self.precision == MIXED:
            how = f"{self.calibrator}, some layers in float"
        return f"{self.target}, {pruned}, {how}"


def budgets_of(recipe: Recipe, settings: TuneSettings) -> tuple[float, ...]:
    """Budgets that make sense: an ONNX file, or a recipe without training data, stays whole.

    Raises:
        UsageError: None is left.
    """
    prunable = not is_onnx(recipe.model.source) and recipe.data.train is not None
    fixed = recipe.prune is not None and recipe.prune.allocation == "per_layer"
    found = tuple(b for b in settings.budgets if b == WHOLE or (prunable and not fixed))
    if not found:
        raise UsageError(
            "this network cannot be pruned by the search, and every budget asks for it.",
            hint="Give a checkpoint and training data without fixed widths, or the budget 1.",
        )
    return found


def precisions_of(recipe: Recipe, settings: TuneSettings) -> tuple[str, ...]:
    """Precisions that are searched.

    Raises:
        UsageError: Layers are to stay in float, and the recipe does not say within which budget.
    """
    mixed = recipe.quantize.mixed_precision is not None
    if not settings.precisions:
        return (INT8, MIXED, FP32) if mixed else (INT8, FP32)
    if MIXED in settings.precisions and not mixed:
        raise UsageError(
            f"the search may not try {MIXED}: the recipe has no `mixed_precision:` block.",
            hint="Give it one under `quantize:`, which says what the float layers must hold.",
        )
    return settings.precisions


def recipe_of(recipe: Recipe, candidate: Candidate, *, epochs: int | None = None) -> Recipe:
    """The recipe that a candidate stands for.

    Args:
        recipe: What the search began with.
        candidate: The point.
        epochs: Of fine-tuning, where it differs from the recipe's; 0 for none.
    """
    changes: dict[str, Any] = {"targets": [candidate.target]}
    if candidate.precision == FP32:
        changes["quantize"] = {"precision": "fp32"}  # whatever quantization is told
    else:
        changes["quantize.precision"] = "int8"
        changes["quantize.calibrator"] = candidate.calibrator
        if candidate.precision == INT8:
            changes["quantize.mixed_precision"] = None
    if candidate.budget == WHOLE:
        return recipe.override({**changes, "prune": None})
    by_latency = recipe.prune is not None and recipe.prune.allocation == "latency"
    gate_based = candidate.importance in _GATE_BASED
    pruning: Mapping[str, Any] = {
        "prune.importance": candidate.importance,
        # Magnitudes of different groups are not comparable as they are.
        "prune.normalization": "none" if gate_based else "lamp",
        "prune.target_latency" if by_latency else "prune.macs_ratio": candidate.budget,
    }
    if by_latency:
        changes["prune.latency_on"] = candidate.target
    if epochs == 0:
        changes["prune.finetune"] = None
    elif epochs is not None:
        changes["prune.finetune.epochs"] = epochs
    return recipe.override({**changes, **pruning})
