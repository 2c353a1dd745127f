"""What an engine must hold to pass: the recipe's `gates:`, and the limits of ``validate``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from edgeres.errors import UsageError
from edgeres.recipe.block import Block, Many

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Drop = Annotated[float, Field(ge=-1e9, le=1e9)]
_TOP1_DROP_PP = 0.5


class Limits(Block):
    """What is allowed; ``None`` leaves a check out, or leaves it to the task."""

    metric: Many[str] | None = Field(
        default=None,
        min_length=1,
        description="Names of the metrics of the task that are gated; where left out those that "
        "`max_drop` names, else its first.",
    )
    max_drop: Drop | dict[str, Drop] | None = Field(
        default=None,
        description="Largest loss of the gated metrics, in their units: percentage points for "
        "top-1; below 0 asks for a gain. One number, or one for each metric by its name. The "
        "task's own where left out, 0.5 for top-1.",
    )
    floor: dict[str, float] = Field(
        default={},
        description="What a metric must reach itself, by its name and in its unit: at least so "
        "much, or at most where less is better.",
    )
    confidence: float = Field(
        default=0.95, ge=0.5, le=0.999999, description="One-sided, of the bounds of the drop."
    )
    min_int8_coverage: Share | None = Field(
        default=None, description="Smallest share of the MACs that run in INT8."
    )
    min_fused_adds: Share | None = Field(
        default=None,
        description="Share of residual additions that must run inside a convolution.",
    )
    max_p99_ms: Positive | None = None
    min_speedup: Positive | None = Field(
        default=None, description="p50 of the fastest float engine over the engine's p50."
    )
    max_size_bytes: Annotated[int, Field(gt=0)] | None = None

    @property
    def gated(self) -> tuple[str, ...]:
        """Names of the gated metrics; empty where the task says them."""
        named = tuple(self.max_drop) if isinstance(self.max_drop, dict) else ()
        return self.metric or named

    def drop_of(self, name: str) -> float | None:
        """Largest loss of one metric; ``None`` where the task says it."""
        return self.max_drop.get(name) if isinstance(self.max_drop, dict) else self.max_drop

    @property
    def beside_top1(self) -> str:
        """The first gate on a figure that plain classification does not judge; empty for none."""
        named = self.max_drop if isinstance(self.max_drop, dict) else ()
        names = [name for name in (*(self.metric or ()), *named) if name != "top1"]
        return next(iter([*names, *self.floor]), "")

    @property
    def max_top1_drop_pp(self) -> float:
        """Largest drop of top-1 in percentage points.

        Raises:
            UsageError: More than there are, or a gate on another figure.
        """
        if self.beside_top1:
            raise UsageError(
                f"plain classification gates the drop of top1, not {self.beside_top1}.",
                hint="Name the output of the scores, `task: {name: classification, output: NAME}`, "
                "to have top1, top5 and balanced with floors.",
            )
        said = self.drop_of("top1")
        allowed = _TOP1_DROP_PP if said is None else said
        if not -100.0 <= allowed <= 100.0:
            raise UsageError(
                f"`max_drop`: expected -100 to 100 percentage points of top-1, got {allowed:g}.",
                hint="See --max-drop, or `gates: {max_drop: ...}` of a recipe.",
            )
        return allowed


class GatesBlock(Limits):
    """The gates. A run whose verdict is not ``pass`` ends with exit code 1."""

    min_int8_coverage: Share = 0.9
    untrained: bool = Field(
        default=False, description="Let an FP32 network pass that answers at random."
    )
