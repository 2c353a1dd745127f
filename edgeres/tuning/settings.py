"""What a search may try, and how a try becomes a recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from edgeres.backends import get_backend, target_names
from edgeres.backends.target import rules_of
from edgeres.calibrators import calibrator_names
from edgeres.errors import BackendMissingError, UsageError
from edgeres.modules.spec import may_train
from edgeres.recipe.block import Block, Many
from edgeres.recipe.prune import Importance
from edgeres.recipe.quantize import Calibrator
from edgeres.recipe.recipe import Recipe

WHOLE = 1.0
"""The budget of a network that is not pruned."""
INT8, SIGNED, MIXED, FP32 = "int8", "int8_signed", "int8_mixed", "fp32"
HALVES = ("fp16", "bf16")
"""Float precisions of half the size, which only some targets make."""
_FLOATS = (*HALVES, FP32)
_GATE_BASED = ("taylor", "taylor_hessian")


class TuneSettings(Block):
    """The space of a search and its length."""

    trials: int = Field(
        default=30, ge=1, description="Tries in all, an earlier run's in the same folder included."
    )
    budgets: Many[Annotated[float, Field(gt=0.0, le=WHOLE)]] = Field(
        default=(1.0, 0.8, 0.65, 0.5),
        min_length=1,
        description="Shares to prune to, of multiply-adds or (where the recipe prunes by latency) "
        "of the dense INT8 latency; 1 is no pruning.",
    )
    importances: Many[Importance] = Field(
        default=("taylor_hessian", "l2", "bn_scale"), min_length=1
    )
    calibrators: Many[Calibrator] = Field(default_factory=calibrator_names, min_length=1)
    precisions: Many[Literal["int8", "int8_signed", "int8_mixed", "fp16", "bf16", "fp32"]] = Field(
        default=(),
        description="int8_signed has activations of int8 and goes with targets that have the "
        "choice, int8_mixed with the recipe's `mixed_precision:`, fp16 and bf16 with targets that "
        "make such engines; empty takes int8 and fp32, and others where they may be the fastest.",
    )
    targets: Many[str] = Field(
        default=(), description="Backends; empty takes those of the recipe that run here."
    )
    epochs: int | None = Field(
        default=None,
        ge=0,
        description="Of fine-tuning in a try, 0 for none; the recipe's if none is said. The "
        "winning recipe has its own.",
    )
    seed: int = Field(default=0, description="Of the search.")

    @model_validator(mode="after")
    def _targets_exist(self) -> TuneSettings:
        if not set(self.targets) <= set(target_names()):
            raise ValueError(f"`targets` expects some of {', '.join(target_names())}")
        return self

    @property
    def space(self) -> dict[str, Any]:
        """What two runs of one search must have in common."""
        return self.model_dump(exclude={"trials"})


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
        how = self.calibrator or self.precision
        if self.precision == MIXED:
            how = f"{self.calibrator}, some layers in float"
        if self.precision == SIGNED:
            how = f"{self.calibrator}, int8 activations"
        return f"{self.target}, {pruned}, {how}"


def budgets_of(recipe: Recipe, settings: TuneSettings) -> tuple[float, ...]:
    """Budgets that make sense: an ONNX file, or a recipe without training data, stays whole.

    Raises:
        UsageError: None is left.
    """
    prunable = may_train(recipe.model.source) and recipe.data.train is not None
    fixed = recipe.prune is not None and recipe.prune.allocation == "per_layer"
    budgets = tuple(b for b in settings.budgets if b == WHOLE or (prunable and not fixed))
    if not budgets:
        raise UsageError(
            "this network cannot be pruned by the search, and every budget asks for it.",
            hint="Give a checkpoint and training data without fixed widths, or the budget 1.",
        )
    return budgets


def precisions_of(
    recipe: Recipe, settings: TuneSettings, targets: Sequence[str]
) -> tuple[str, ...]:
    """Precisions that are searched.

    Args:
        recipe: What the search began with.
        settings: What is asked for.
        targets: That run here.

    Raises:
        UsageError: Layers are to stay in float, and the recipe does not say within which budget;
            or FP16, BF16 or int8 activations are asked for, and no target makes such engines.
    """
    mixed = recipe.quantize.mixed_precision is not None
    portable = recipe.quantize.portable
    made = {p for p in (SIGNED, *HALVES) if any(makes(target, p) for target in targets)}
    if not settings.precisions:
        signed = not portable and any(signed_may_be_faster(name) for name in targets)
        further = ((SIGNED, signed), (MIXED, mixed), *((half, half in made) for half in HALVES))
        return (INT8, *(name for name, wanted in further if wanted), FP32)
    for name in (SIGNED, *HALVES):
        if name in settings.precisions and (name not in made or (name == SIGNED and portable)):
            raise UsageError(
                f"the search may not try {name}: {', '.join(targets)} makes no such engines.",
                hint=f"Leave {name} out of --precisions.",
            )
    if MIXED in settings.precisions and not mixed:
        raise UsageError(
            f"the search may not try {MIXED}: the recipe has no `mixed_precision:` block.",
            hint="Give it one under `quantize:`, which says what the float layers must hold.",
        )
    return settings.precisions


def space_of(
    targets: Sequence[str],
    budgets: Sequence[float],
    precisions: Sequence[str],
    settings: TuneSettings,
) -> tuple[Candidate, ...]:
    """Every point of a search, each once, unpruned ones first.

    Args:
        targets: That run here.
        budgets: See :func:`budgets_of`.
        precisions: See :func:`precisions_of`.
        settings: The importances and calibrators.
    """
    return tuple(
        Candidate(target, budget, importance, calibrator, precision)
        for budget in sorted(dict.fromkeys(budgets), reverse=True)
        for importance in (("",) if budget == WHOLE else dict.fromkeys(settings.importances))
        for precision in dict.fromkeys(precisions)
        for calibrator in (("",) if precision in _FLOATS else dict.fromkeys(settings.calibrators))
        for target in dict.fromkeys(targets)
        if makes(target, precision)
    )


def makes(target: str, precision: str) -> bool:
    """Whether a target makes engines in a precision; all make INT8 and FP32 ones."""
    if precision == SIGNED:
        try:
            return "int8" in rules_of(target).other_activations
        except BackendMissingError:
            return False
    if precision in HALVES:
        backend = get_backend(target)
        return precision in backend.float_builds(backend.default_device)
    return True


def signed_may_be_faster(target: str) -> bool:
    """Whether int8 activations may be faster than the target's own on this CPU."""
    return makes(target, SIGNED) and rules_of(target).others_may_be_faster


def recipe_of(recipe: Recipe, candidate: Candidate, *, epochs: int | None = None) -> Recipe:
    """The recipe that a candidate stands for.

    Args:
        recipe: What the search began with.
        candidate: The point.
        epochs: Of fine-tuning, where it differs from the recipe's; 0 for none.
    """
    changes: dict[str, Any] = {"targets": [candidate.target]}
    if candidate.precision in _FLOATS:
        changes["quantize"] = {"precision": candidate.precision}  # whatever quantization is told
    else:
        changes["quantize.precision"] = "int8"
        changes["quantize.calibrator"] = candidate.calibrator
        changes["quantize.activations"] = "int8" if candidate.precision == SIGNED else "auto"
        if candidate.precision != MIXED:
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
        changes |= {"prune.finetune": None, "prune.epochs_between": 0}
    elif epochs is not None:
        changes["prune.finetune.epochs"] = epochs
    return recipe.override({**changes, **pruning})
