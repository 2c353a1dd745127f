"""What every block of a recipe has in common, and how it says what is wrong with a value.

A block is written once: a recipe holds it, a stage takes it as its settings, and what it says is
the stage's key.
"""

from __future__ import annotations

import difflib
import re
from typing import Annotated, Any, ClassVar, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgeres.errors import UsageError

T = TypeVar("T")
Many = Annotated[tuple[T, ...], Field(strict=False)]
"""A list of YAML, or a tuple."""
_RENAMED = {"checks": "gates", "max_drop_pp": "max_drop"}
"""Keys that had another name."""
OpenShare = Annotated[float, Field(gt=0.0, lt=1.0)]


class Block(BaseModel):
    """Base of all blocks: immutable, unknown keys are errors, ``true`` is no number, nor is NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)
    NOT_IN_KEY: ClassVar[frozenset[str]] = frozenset()
    """Fields that change where or how fast a stage computes, not what."""

    def __init__(self, /, **values: Any) -> None:
        """Checks every value.

        Raises:
            UsageError: In one line: the field, what was expected and what was got.
        """
        try:
            super().__init__(**values)
        except ValidationError as error:
            _, problem = complaint(error, type(self))
            raise UsageError(f"{type(self).__name__}: {problem}") from error

    # A block inside another one is read by pydantic itself, which then knows the whole way to it.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    def replace(self, **changes: Any) -> Self:
        """The block with other values, checked; what was left out before stays left out.

        Raises:
            UsageError: As for a new one.
        """
        return type(self)(**{n: getattr(self, n) for n in self.model_fields_set} | changes)

    def key(self) -> dict[str, Any]:
        """What the key of a stage that takes this block holds, as JSON values."""
        plain = self.model_dump(mode="json", exclude=set(self.NOT_IN_KEY))
        inner = {name: value for name, value in self if isinstance(value, Block)}
        return plain | {name: value.key() for name, value in inner.items()}


def complaint(error: ValidationError, kind: type[BaseModel]) -> tuple[list[str], str]:
    """The keys that lead to what is wrong, and a sentence that names it.

    Args:
        error: Of reading a block.
        kind: Of that block.
    """
    # A misspelt key is also a missing one: name what is there before what is not.
    problem = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    keys = [str(key) for key in problem["loc"]]
    named = ".".join(keys)
    more = f" ({error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if problem["type"] == "extra_forbidden":
        return keys, f"unknown key `{named}`.{_suggestion(keys, kind)}{more}"
    if problem["type"] == "missing":
        return keys, f"the key `{named}` is missing.{more}"
    text = problem["msg"].removeprefix("Value error, ").replace("a valid tuple", "a list")
    if problem["type"] == "value_error":  # keys that do not go together; the text names them
        guilty = re.match(r"`([\w.]+)[`:]", text)
        keys = [*keys, *guilty[1].split(".")] if guilty else keys
        return keys, f"`{named}`: {text}.{more}" if named else f"{text}.{more}"
    return keys, f"`{named}`: {text}, got {problem['input']!r}.{more}"


def _suggestion(keys: list[str], kind: type[BaseModel]) -> str:
    """Closest known key in the same block, or the list of its keys."""
    for key in keys[:-1]:
        if key not in kind.model_fields:
            continue  # a key of a mapping, whose values are the block
        annotation = kind.model_fields[key].annotation
        choices = [annotation, *getattr(annotation, "__args__", ())]
        kind = next(c for c in choices if isinstance(c, type) and issubclass(c, BaseModel))
    known = list(kind.model_fields)
    if keys[-1] in _RENAMED and _RENAMED[keys[-1]] in known:
        return f" It is called `{_RENAMED[keys[-1]]}`."
    close = difflib.get_close_matches(keys[-1], known, n=1)
    return f" Did you mean `{close[0]}`?" if close else f" Known keys: {', '.join(known)}."
