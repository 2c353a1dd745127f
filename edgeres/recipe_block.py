"""What every block of a recipe has in common."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

OpenShare = Annotated[float, Field(gt=0.0, lt=1.0)]


class Block(BaseModel):
    """Base of all blocks: immutable, unknown keys are errors, NaN and Inf are not numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
