"""Finds the state dict inside whatever a training script saved around it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from edgeres.errors import ModelError

# Averaged weights first: a script that keeps them evaluates and selects with them.
WRAPPERS = (
    "state_dict_ema",
    "ema_state_dict",
    "model_ema",
    "ema_model",
    "ema",
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "network",
    "module",
    "weights",
    "params",
    "shadow",
)
_MAX_DEPTH = 6
_LISTED = 10


@dataclass(frozen=True)
class StateDict:
    """Tensors by the name they had in the file, and the wrappers they lay in (``a/b``)."""

    tensors: dict[str, torch.Tensor]
    wrapped_in: str


def find_state_dict(content: object, *, source: str) -> StateDict:
    """Descends through known wrappers to the first mapping that holds tensors.

    Args:
        content: What the file held: a state dict, or mappings around one, beside optimizers,
            epochs and the like. Where averaged (EMA) and raw weights lie side by side, the
            averaged ones are taken.
        source: File name for messages.

    Raises:
        ModelError: No state dict, or several and no telling which.
    """
    wrappers: list[str] = []
    for _ in range(_MAX_DEPTH):
        if not isinstance(content, Mapping):
            raise ModelError(
                f"Expected a state dict in {source}{_inside(wrappers)}, "
                f"got {type(content).__name__}.",
                hint="Save torch.save(model.state_dict(), path), not the module itself.",
            )
        inner = _inner(content)
        if inner is None:
            tensors = {str(k): v for k, v in content.items() if isinstance(v, torch.Tensor)}
            if tensors:
                return StateDict(tensors, "/".join(wrappers))
            raise ModelError(
                f"No state dict found in {source}{_inside(wrappers)}; its keys are "
                f"{_listing(content)}.",
                hint=f"Expected tensors, or one of: {', '.join(WRAPPERS)}.",
            )
        wrappers.append(inner)
        content = content[inner]
    raise ModelError(
        f"{source} nests mappings deeper than {_MAX_DEPTH} levels ({'/'.join(wrappers)}).",
        hint="Save the state dict itself.",
    )


def _inner(content: Mapping[object, object]) -> str | None:
    """The wrapper to descend into, or ``None`` where this level is the last."""
    for wrapper in WRAPPERS:
        value = content.get(wrapper)
        if isinstance(value, Mapping) and _holds_tensors(value, _MAX_DEPTH):
            return wrapper
    if any(isinstance(value, torch.Tensor) for value in content.values()):
        return None
    holders = [
        key
        for key, value in content.items()
        if isinstance(key, str) and isinstance(value, Mapping) and _holds_tensors(value, 1)
    ]
    return holders[0] if len(holders) == 1 else None


def _holds_tensors(content: Mapping[object, object], depth: int) -> bool:
    return any(
        isinstance(value, torch.Tensor)
        or (depth > 1 and isinstance(value, Mapping) and _holds_tensors(value, depth - 1))
        for value in content.values()
    )


def _inside(wrappers: list[str]) -> str:
    return f" under '{'/'.join(wrappers)}'" if wrappers else ""


def _listing(content: Mapping[object, object]) -> str:
    keys = [str(key) for key in content]
    more = f" and {len(keys) - _LISTED} more" if len(keys) > _LISTED else ""
    return ", ".join(keys[:_LISTED]) + more if keys else "none"
