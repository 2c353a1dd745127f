"""What an engine must hold to pass: the recipe's `checks:`, and the limits of ``validate``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from edgeres.recipe.block import Block

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]


class Limits(Block):
    """What is allowed; ``None`` leaves a check out."""

    max_drop_pp: float = Field(
        default=0.5,
        ge=-100.0,
        le=100.0,
        description="Largest drop of top-1 in percentage points; below 0 asks for a gain.",
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


class ChecksBlock(Limits):
    """The gates. A run whose verdict is not ``pass`` ends with exit code 1."""

    min_int8_coverage: Share = 0.9
    untrained: bool = Field(
        default=False, description="Let an FP32 network pass that answers at random."
    )
