"""What every block of a recipe has in common."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field

OpenShare = Annotated[float, Field(gt=0.0, lt=1.0)]


class Block(BaseModel):
    """Base of all blocks: immutable, unknown keys are errors, NaN and Inf are not numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def only(self, *names: str) -> Self:
        """The block with everything but these keys at its default.

        A stage that gets this, and whose key holds this, cannot depend on what its key lacks.
        """
        fields = type(self).model_fields
        assert set(names) <= fields.keys(), f"no such keys: {set(names) - fields.keys()}"
        return self.model_copy(
            update={
                name: field.get_default(call_default_factory=True)
                for name, field in fields.items()
                if name not in names
            }
        )

    def without(self, *names: str) -> Self:
        """The block with these keys at their defaults; a key that comes later stays in."""
        fields = type(self).model_fields
        assert set(names) <= fields.keys(), f"no such keys: {set(names) - fields.keys()}"
        return self.only(*(fields.keys() - set(names)))
