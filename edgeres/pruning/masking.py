"""The same network with channels silenced instead of removed: what pruning must equal.

Silencing every layer that writes a channel makes it zero everywhere, so removing it may change
nothing any more. The comparison proves a pruned network whatever the dependency graph believed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from edgeres.errors import ModelError
from edgeres.modules.answers import outputs_of
from edgeres.pruning.groups import ChannelGroup

_TOLERANCE = 1e-3


@contextmanager
def silenced(
    module: nn.Module, groups: Sequence[ChannelGroup], removed: Mapping[str, Sequence[int]]
) -> Iterator[None]:
    """While it lasts, the named channels of the module are zero.

    Args:
        module: The full network.
        groups: Of that network.
        removed: Channels by group name.
    """
    handles = []

    def silence(mask: torch.Tensor) -> object:
        def hook(_: nn.Module, __: object, output: torch.Tensor) -> torch.Tensor:
            return output * mask.reshape(1, -1, *[1] * (output.dim() - 2))

        return hook

    for group in groups:
        mask = torch.ones(group.channels, device=next(module.parameters()).device)
        mask[list(removed.get(group.name, ()))] = 0
        # Of the layers that write into a sum some may have a normalization and some not.
        for layer in (*group.layers("out"), *group.layers("norm")):
            hook = silence(mask)
            handles.append(module.get_submodule(layer).register_forward_hook(hook))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def check_equal(full: Any, pruned: Any) -> None:
    """Compares the outputs of the silenced and of the pruned network.

    Raises:
        ModelError: They differ by more than rounding.
    """
    others = outputs_of(pruned)
    for name, output in outputs_of(full).items():
        _check_output(output, others[name])


def _check_output(full: torch.Tensor, pruned: torch.Tensor) -> None:
    if full.shape != pruned.shape:
        raise ModelError(
            f"Pruning changed the output's shape from {tuple(full.shape)} to "
            f"{tuple(pruned.shape)}.",
            hint="Channels are coupled in a way that the dependency graph does not see.",
        )
    distance = float((full - pruned).abs().max())
    if not distance <= _TOLERANCE * (1 + float(full.abs().max())):
        raise ModelError(
            f"The pruned network's outputs differ by {distance:.2g} from those of the full network "
            "with the same channels set to zero.",
            hint="Channels are coupled in a way that the dependency graph does not see.",
        )
