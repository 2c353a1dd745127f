"""The widths that pruning settings come to: by a rule, by a search, or as given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from edgeres.errors import UsageError
from edgeres.layer_latency.predict import LatencyModel
from edgeres.pruning.allocation import (
    Choices,
    allocate_by_importance,
    allocate_by_latency,
    allocate_uniform,
    near,
    width_choices,
)
from edgeres.pruning.budget import Cost, MacsCost, Widths
from edgeres.pruning.confirm import Problem, Region
from edgeres.pruning.groups import ChannelGroup
from edgeres.pruning.latency_cost import LatencyCost
from edgeres.recipe.prune import PruneSettings


def chosen_widths(
    groups: Sequence[ChannelGroup],
    scores: dict[str, NDArray[np.float64]],
    costs: Cost,
    settings: PruneSettings,
    budget: float,
    whole: Mapping[str, int],
) -> dict[str, int]:
    """Channels that each group keeps.

    Args:
        groups: Those that may be narrowed.
        scores: ``(C,)`` of each group, by name.
        costs: Of widths, in the unit of the budget.
        settings: Which allocation.
        budget: To stay within; not used with widths that are given.
        whole: Channels before the first round of pruning, by group.

    Raises:
        UsageError: The budget cannot be met, or a given width does not fit.
    """
    if settings.allocation == "per_layer":
        return {g.name: _given_width(g, settings.widths) for g in groups}
    choices = width_choices_of(groups, scores, settings, whole)
    allocate = {
        "uniform": allocate_uniform,
        "global": allocate_by_importance,
        "latency": allocate_by_latency,
    }[settings.allocation]
    return allocate(choices, costs, budget)


def width_choices_of(
    groups: Sequence[ChannelGroup],
    scores: dict[str, NDArray[np.float64]],
    settings: PruneSettings,
    whole: Mapping[str, int],
) -> list[Choices]:
    """The widths that each group may have; arguments as of :func:`chosen_widths`."""
    return [
        width_choices(
            group,
            scores[group.name],
            round_to=settings.round_to,
            min_share=settings.min_share,
            whole=whole[group.name],
        )
        for group in groups
    ]


def latency_problem(
    groups: Sequence[ChannelGroup],
    choices: Sequence[Choices],
    macs: MacsCost,
    latency: LatencyModel,
    budget_ms: float,
) -> Problem:
    """The search for widths within a latency, for :func:`edgeres.pruning.confirm.confirm`.

    Args:
        groups: All of the network's.
        choices: Of those that may be narrowed.
        macs: Of the network.
        latency: Of the network, or of a wider one that it was narrowed from.
        budget_ms: To stay within.
    """

    def loss(widths: Widths) -> float:
        return sum(c.losses[c.widths.index(widths[c.name])] for c in choices)

    def solve(model: LatencyModel, region: Region | None) -> Widths:
        inside = choices if region is None else near(choices, region.centre, region.share)
        return allocate_by_latency(inside, LatencyCost(groups, model), budget_ms)

    return Problem(
        solve=solve,
        even=lambda widths: allocate_uniform(choices, macs, macs(widths)),
        layers=LatencyCost(groups, latency).layer_widths,
        loss=loss,
        budget_ms=budget_ms,
    )


def _given_width(group: ChannelGroup, widths: Mapping[str, int]) -> int:
    width = widths.get(group.name, group.channels)
    if width > group.channels or width % group.unit:
        multiple = f" and a multiple of {group.unit}" if group.unit > 1 else ""
        raise UsageError(
            f"Expected at most {group.channels} channels{multiple} in '{group.name}', got {width}.",
            hint="Correct 'widths' in the recipe's prune block.",
        )
    return width
