"""From a network and real batches to one score for every channel of every group."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgeres.errors import ModelError
from edgeres.pruning import importance
from edgeres.pruning.groups import ChannelGroup
from edgeres.pruning.signals import Batch, effective_filters, gate_derivatives, norm_scales
from edgeres.recipe.prune import Importance, Normalization

_OF_FILTERS = {"l1": importance.l1, "l2": importance.l2, "fpgm": importance.fpgm}
_OF_GATES = {"taylor": importance.taylor, "taylor_hessian": importance.taylor_hessian}
_NORMALIZATIONS = {"mean": importance.by_mean, "lamp": importance.lamp}


def needs_gradients(kind: Importance) -> bool:
    """Whether this importance looks at images; the others look at weights only."""
    return kind in _OF_GATES


def score_channels(
    module: nn.Module,
    groups: Sequence[ChannelGroup],
    batches: Iterable[Batch],
    *,
    kind: Importance,
    normalization: Normalization,
) -> dict[str, NDArray[np.float64]]:
    """Scores every channel; those of one unit share their unit's score evenly.

    Args:
        module: In evaluation mode.
        groups: Of that module.
        batches: Images and labels; looked at by the gate-based kinds only.
        kind: Of importance.
        normalization: Between groups.

    Returns:
        ``(C,) float64`` by group name.

    Raises:
        ModelError: A score is not finite.
    """
    gates = gate_derivatives(module, groups, batches) if needs_gradients(kind) else {}
    scores: dict[str, NDArray[np.float64]] = {}
    for group in groups:
        if kind in _OF_GATES:
            derivative = gates[group.name]
            units = derivative.reshape(len(derivative), -1, group.unit).sum(2)
            found = _OF_GATES[kind](units)
        else:
            signal = (
                norm_scales(module, group)
                if kind == "bn_scale"
                else effective_filters(module, group)
            )
            signal = signal.reshape(group.channels // group.unit, -1)
            found = (_OF_FILTERS.get(kind) or importance.bn_scale)(signal)
        if not bool(torch.isfinite(found).all()):
            raise ModelError(
                f"The importance '{kind}' of '{group.name}' is not finite.",
                hint="The weights or the images hold extreme values; check the checkpoint.",
            )
        if normalization != "none":
            found = _NORMALIZATIONS[normalization](found)
        spread = found.double().cpu().numpy() / group.unit
        scores[group.name] = np.repeat(spread, group.unit)
    return scores
