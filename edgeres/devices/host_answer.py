"""What a host may answer: read against a schema, for a host may answer anything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgeres import errors
from edgeres.devices.framing import unframed
from edgeres.errors import EdgeResError, StageError

_Text = Annotated[str, Field(max_length=4000)]


class _Part(BaseModel):
    """Fields that are read here; others are passed on."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False, strict=True)


class _Latency(_Part):
    p50: float
    p90: float
    p99: float


class _Energy(_Part):
    joules: float
    above_idle: float


class _Engine(_Part):
    backend: _Text
    device: _Text
    latency_ms: _Latency
    doubts: Annotated[list[_Text], Field(max_length=100)]
    peak_memory_bytes: Annotated[int, Field(ge=0)] | None
    speedup: float | None = None
    energy: _Energy | None = None


class _Environment(_Part):
    cpu: _Text
    threads: Annotated[int, Field(ge=1)]


class _Benchmark(_Part):
    environment: _Environment
    stable: bool
    engines: dict[str, _Engine]


class _Error(_Part):
    id: _Text
    message: _Text
    hint: _Text = ""


def read_answer(printed: bytes, who: str) -> dict[str, Any] | None:
    """The answer of the program on a host; ``None`` where it gave none.

    Raises:
        EdgeResError: The error that came up there, of the same class.
        StageError: It answered with no object, or with an error that is none.
    """
    try:
        content = unframed(printed)
    except ValueError:
        return None
    if not isinstance(content, dict):
        raise _nonsense(who, f"it is a {type(content).__name__}")
    if "error" in content:
        raise _same_error(who, content["error"])
    return content


def check_benchmark(content: dict[str, Any], engines: Sequence[str], who: str) -> dict[str, Any]:
    """Holds an answer of ``benchmark`` to its schema.

    Args:
        content: The answer.
        engines: Names of the engines that were to be measured.
        who: The host, for the message.

    Raises:
        StageError: Something is missing in it, or is not what it must be.
    """
    try:
        found = _Benchmark.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])[:100]
        raise _nonsense(who, f"{where}: {first['msg']}") from error
    if list(found.engines) != list(engines):
        raise _nonsense(who, f"it measured {len(found.engines)} engines, not {len(engines)}")
    return content


# The content of an error is a host's, hence ``Any``.
def _same_error(who: str, content: Any) -> EdgeResError:
    try:
        told = _Error.model_validate(content)
    except ValidationError as error:
        raise _nonsense(who, "its error is none") from error
    kinds = {
        kind.error_id: kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, EdgeResError)
    }
    kind = kinds.get(told.id, StageError)
    return kind(f"{who}: {told.message}", hint=told.hint)


def _nonsense(who: str, reason: str) -> StageError:
    return StageError(
        f"{who}: its answer makes no sense: {reason}.",
        hint="Look at what its Python and its profile print and run.",
    )
