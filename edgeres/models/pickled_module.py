"""The weights of a whole pickled module (``torch.save(model)``), read without its class.

What lies in the module beside weights tells more of the network than a state dict does: how its
convolutions step, and which layers have no weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from edgeres.errors import ModelError
from edgeres.models.stand_ins import class_of

Geometry = Mapping[str, tuple[Any, ...]]
_STEPS = ("stride", "padding", "dilation", "groups")
_PLAIN = (
    *("ReLU", "MaxPool2d", "AdaptiveAvgPool2d", "AvgPool2d", "Sequential", "ModuleList"),
    *("Identity", "Dropout", "Flatten", "Sigmoid"),  # Sigmoid: of squeeze-and-excitation
)
_MAX_DEPTH = 32


def is_module(value: object) -> bool:
    """Whether a stand-in took the place of a torch module."""
    return bool(class_of(value)) and "_modules" in vars(value) and "_parameters" in vars(value)


def module_state(value: object) -> dict[str, torch.Tensor]:
    """Parameters and persistent buffers by their names, as ``state_dict()`` gives them."""
    state: dict[str, torch.Tensor] = {}
    for prefix, part in _parts(value):
        left_out = part.get("_non_persistent_buffers_set") or ()
        for kind in ("_parameters", "_buffers"):
            for name, tensor in part[kind].items():
                if isinstance(tensor, torch.Tensor) and name not in left_out:
                    state[prefix + str(name)] = tensor
    return state


def module_geometry(value: object, source: str) -> Geometry:
    """How each convolution steps, by its name.

    Raises:
        ModelError: A layer without weights that no network here has, such as another activation.
    """
    geometry = {}
    for prefix, part in _parts(value):
        kind = str(part["stands_for"])
        name = kind.rpartition(".")[2]
        if kind.startswith("torch.nn.modules.conv."):
            geometry[prefix.rstrip(".")] = tuple(_pair(part.get(field)) for field in _STEPS)
        bare = not part["_parameters"] and not part["_modules"]
        if bare and kind.startswith("torch.nn.") and name not in _PLAIN:
            raise ModelError(
                f"{source} holds a network with {name} at '{prefix.rstrip('.')}', which edgeres "
                "does not build.",
                hint="Give the code that makes it: --model mymodel.py:build --weights FILE.",
            )
    return geometry


def check_geometry(
    module: nn.Module, geometry: Geometry, names: Mapping[str, str], source: str
) -> None:
    """Refuses a network whose convolutions step otherwise than those of the pickled one.

    Args:
        module: As it was built here.
        geometry: Of the pickled module, by its names.
        names: Name of each parameter here to its name there.
        source: File name for messages.

    Raises:
        ModelError: Naming the first convolution that differs.
    """
    for name, part in module.named_modules():
        there = names.get(f"{name}.weight", "").removesuffix(".weight")
        if not isinstance(part, nn.Conv2d) or there not in geometry:
            continue
        mine = tuple(_pair(getattr(part, field)) for field in _STEPS)
        if mine != geometry[there]:
            raise ModelError(
                f"{source} holds another network than its weights look like: '{there}' has "
                f"stride, padding, dilation and groups {geometry[there]}, the plain one {mine}.",
                hint="Give the code that makes it: --model mymodel.py:build --weights FILE.",
            )


def _pair(value: object) -> object:
    return tuple(value) if isinstance(value, list | tuple) else value


def _parts(value: object, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, dict[str, Any]]]:
    fields = vars(value)
    yield prefix, fields
    if depth < _MAX_DEPTH and isinstance(fields["_modules"], Mapping):
        for name, inner in fields["_modules"].items():
            if is_module(inner):
                yield from _parts(inner, f"{prefix}{name}.", depth + 1)
