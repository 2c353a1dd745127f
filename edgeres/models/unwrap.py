"""Finds the state dict inside whatever a training script saved around it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from edgeres.errors import ModelError
from edgeres.models.pickled_module import Geometry, is_module, module_geometry, module_state
from edgeres.models.stand_ins import class_of

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
_AVERAGED = ("ema_model.", "model_ema.module.", "model_ema.", "ema.module.", "ema.", "averaged.")
"""What stands before averaged weights that lie beside the raw ones in one state dict."""
_MAX_DEPTH = 6
_LISTED = 10


@dataclass(frozen=True)
class StateDict:
    """What a file holds of one network.

    Attributes:
        tensors: By the name they had in the file.
        wrapped_in: The wrappers they lay in (``a/b``).
        geometry: How its convolutions step, where a whole module was pickled.
    """

    tensors: dict[str, torch.Tensor]
    wrapped_in: str
    geometry: Geometry = field(default_factory=dict)


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
    swapped = isinstance(content, Mapping) and _is_mmengine(content)
    for _ in range(_MAX_DEPTH):
        if is_module(content):
            state = module_state(content)
            return StateDict(state, "/".join(wrappers), module_geometry(content, source))
        if not isinstance(content, Mapping):
            raise ModelError(
                f"Expected a state dict in {source}{_inside(wrappers)}, "
                f"got {type(content).__name__}.",
                hint="Save torch.save(model.state_dict(), path), not the module itself.",
            )
        inner = "state_dict" if swapped and not wrappers else _inner(content)
        if inner is None:
            tensors = {str(k): v for k, v in content.items() if isinstance(v, torch.Tensor)}
            if tensors:
                return StateDict(_averaged(tensors), "/".join(wrappers))
            if class_of(content):
                raise ModelError(
                    f"{source} is refused: it needs {class_of(content)}, which is no network whose "
                    "weights can be read; none of its code was run.",
                    hint="Where you trust it, save only the weights, torch.save(model.state_dict(),"
                    " path), or give code that loads it: --model mymodel.py:build.",
                )
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


def _is_mmengine(content: Mapping[object, object]) -> bool:
    """OpenMMLab's runner puts the averaged weights into ``state_dict``, the raw ones beside."""
    meta = content.get("meta")
    return isinstance(meta, Mapping) and any("mmengine" in str(key) for key in meta)


def _averaged(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The averaged weights where a module that averages holds them beside the raw ones."""
    for prefix in _AVERAGED:
        names = [name for name in tensors if name.startswith(prefix)]
        cut = {name[len(prefix) :] for name in names}
        raw = {name.partition(".")[2] for name in tensors if not name.startswith(prefix)}
        if names and cut <= raw | {n for n in tensors if not n.startswith(prefix)}:
            return {name[len(prefix) :]: tensors[name] for name in names}
    return tensors


def _inner(content: Mapping[object, object]) -> str | None:
    """The wrapper to descend into, or ``None`` where this level is the last."""
    for wrapper in WRAPPERS:
        value = content.get(wrapper)
        if is_module(value) or (isinstance(value, Mapping) and _holds_tensors(value, _MAX_DEPTH)):
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
