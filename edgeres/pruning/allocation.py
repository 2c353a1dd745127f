"""How many channels each group keeps: the widths of the pruned network.

A cost function is all that is known about the target, so the same search serves multiply-adds and,
with a table of measured layers behind the function, milliseconds on a device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, lcm

import numpy as np
from numpy.typing import NDArray

from edgeres.errors import UsageError
from edgeres.pruning.budget import Cost
from edgeres.pruning.groups import ChannelGroup

Scores = Mapping[str, NDArray[np.float64]]
_BISECTIONS = 40
_EXCHANGED = 4  # widths that one exchange may pass
_LEAST_GAIN = 1e-9  # relative, so that rounding cannot make an exchange go round in circles


@dataclass(frozen=True)
class Choices:
    """The widths that one group may have, from the least to all of its channels.

    Attributes:
        name: Of the group.
        widths: Rising; the last is the full width.
        losses: Importance lost at each width; 0 at the last.
        whole: Channels before the first round of pruning.
    """

    name: str
    widths: tuple[int, ...]
    losses: tuple[float, ...]
    whole: int


def width_choices(
    group: ChannelGroup,
    scores: NDArray[np.float64],
    *,
    round_to: int,
    min_share: float,
    whole: int | None = None,
) -> Choices:
    """Multiples of ``round_to`` and of the group's unit that keep at least ``min_share``.

    Args:
        group: Of channels.
        scores: ``(C,)``, importance of each channel.
        round_to: Kept widths are multiples of it; the full width may be another number.
        min_share: Least share of ``whole`` that is kept.
        whole: Channels before the first round of pruning; those of the group where not given.
    """
    step = lcm(round_to, group.unit)
    whole = group.channels if whole is None else whole
    first = max(step, ceil(min_share * whole / step) * step)
    widths = [*range(first, group.channels, step), group.channels]
    # losses[k]: the k least important channels are gone
    losses = np.concatenate([[0.0], np.cumsum(np.sort(scores))])
    lost = tuple(float(losses[group.channels - w]) for w in widths)
    return Choices(group.name, tuple(widths), lost, whole)


def near(choices: Sequence[Choices], centre: Mapping[str, int], share: float) -> list[Choices]:
    """The widths that differ from the centre's by at most this share of a group's channels.

    Args:
        choices: Of each group.
        centre: A width of each group, among its choices.
        share: Of the channels before the first round of pruning.
    """
    kept = []
    for c in choices:
        inside = [i for i, w in enumerate(c.widths) if abs(w - centre[c.name]) <= share * c.whole]
        widths, losses = tuple(c.widths[i] for i in inside), tuple(c.losses[i] for i in inside)
        kept.append(replace(c, widths=widths, losses=losses))
    return kept


def allocate_uniform(choices: Sequence[Choices], cost: Cost, budget: float) -> dict[str, int]:
    """The same share of every group, as near to the budget as rounding lets it come from below.

    Shares are of the widths before the first round: of those before the last one, a group that was
    once rounded down would be rounded down again in every round.

    Raises:
        UsageError: The budget cannot be met; names the floor.
    """
    check_reachable(choices, cost, budget)

    def at(share: float) -> dict[str, int]:
        return {c.name: min(c.widths, key=lambda w: abs(w - share * c.whole)) for c in choices}

    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if cost(at(middle)) <= budget else (low, middle)
    widths = at(low)
    # Rounding moves many groups at once; what is left goes to those rounded down most.
    by_shortage = sorted(choices, key=lambda c: widths[c.name] - high * c.whole)
    for choice in by_shortage:
        _widen(widths, choice, cost, budget)
    return widths


def allocate_by_importance(choices: Sequence[Choices], cost: Cost, budget: float) -> dict[str, int]:
    """The least importance lost within the budget.

    From the full network, again and again the narrowing that loses least importance for the cost
    it saves is taken: the greedy solution of the knapsack problem. Where the next width saves
    nothing (devices have such stairs) the one below it is looked at. At the end what the last step
    overshot is given back where it counts most. Where all steps cost the same this is the best
    choice; where they cost unlike, several steps can be lost against it.

    Raises:
        UsageError: The budget cannot be met; names the floor.
    """
    check_reachable(choices, cost, budget)
    widths = {choice.name: choice.widths[-1] for choice in choices}
    spent = cost(widths)
    while spent > budget:
        best: tuple[float, str, int, float] | None = None
        for choice in choices:
            place = choice.widths.index(widths[choice.name])
            for lower in reversed(range(place)):
                found = cost({**widths, choice.name: choice.widths[lower]})
                saved = spent - max(found, budget)
                if saved > 0:
                    rate = (choice.losses[lower] - choice.losses[place]) / saved
                    if best is None or rate < best[0]:
                        best = (rate, choice.name, choice.widths[lower], found)
                    break  # a width that saves nothing is only passed through
        if best is None:  # the floor was checked, so some narrowing always saves
            raise AssertionError
        _, name, width, spent = best
        widths[name] = width
    # Give back, the most important first.
    while True:
        raises = []
        for choice in choices:
            place = choice.widths.index(widths[choice.name])
            if place + 1 < len(choice.widths):
                found = cost({**widths, choice.name: choice.widths[place + 1]})
                if found <= budget:
                    gain = choice.losses[place] - choice.losses[place + 1]
                    raises.append((gain, choice.name, choice.widths[place + 1]))
        if not raises:
            return widths
        _, name, width = max(raises)
        widths[name] = width


def allocate_by_latency(choices: Sequence[Choices], cost: Cost, budget: float) -> dict[str, int]:
    """The least importance lost within a budget of milliseconds.

    On a device's stairs the greedy solution can end with widths that pay for channels they do not
    have. So from there channels are exchanged, one group wider and another narrower, as long as
    that keeps more importance within the budget: a local search of the knapsack problem.

    Raises:
        UsageError: The budget cannot be met; names the floor.
    """
    widths = allocate_by_importance(choices, cost, budget)
    while True:
        best: tuple[float, dict[str, int]] | None = None
        for raised in choices:
            for gain, wider in _steps(raised, widths, up=True):
                higher = {**widths, raised.name: wider}
                if cost(higher) <= budget:
                    best = max(best or (0.0, {}), (gain, higher), key=lambda found: found[0])
                    continue
                for lowered in choices:
                    if lowered is raised:
                        continue
                    for loss, narrower in _steps(lowered, widths, up=False):
                        better = gain + loss > (best[0] if best else 0.0) + _LEAST_GAIN * gain
                        moved = {**higher, lowered.name: narrower}
                        if better and cost(moved) <= budget:
                            best = (gain + loss, moved)
        if best is None or best[0] <= 0:
            return widths
        widths = best[1]


def _steps(choice: Choices, widths: Mapping[str, int], *, up: bool) -> list[tuple[float, int]]:
    """The next widths of a group in one direction, each with the importance that it adds."""
    place = choice.widths.index(widths[choice.name])
    places = range(place + 1, place + 1 + _EXCHANGED) if up else range(place - _EXCHANGED, place)
    return [
        (choice.losses[place] - choice.losses[to], choice.widths[to])
        for to in places
        if 0 <= to < len(choice.widths)
    ]


def check_reachable(choices: Sequence[Choices], cost: Cost, budget: float) -> None:
    """Compares the budget with the narrowest network.

    Raises:
        UsageError: Nothing can be pruned, or the budget is below the floor: which is named, with
            the layer that keeps most of it.
    """
    full = {choice.name: choice.widths[-1] for choice in choices}
    if cost(full) <= budget:
        return
    floor = {choice.name: choice.widths[0] for choice in choices}
    if floor == full:
        raise UsageError(
            "Nothing can be pruned: no group of channels has a narrower width to go to.",
            hint="Choose a smaller round_to or min_share, or exclude fewer groups.",
        )
    if cost(floor) > budget:
        whole = cost(full)
        widest = max(choices, key=lambda c: cost(floor) - cost({**floor, c.name: 0}))
        raise UsageError(
            f"Expected at least {cost(floor) / whole:.3f} of the cost, the floor, got a budget of "
            f"{budget / whole:.3f}; '{widest.name}' holds most of the floor with "
            f"{widest.widths[0]} of {widest.widths[-1]} channels.",
            hint="Ask for more, or choose a smaller round_to or min_share.",
        )


def _widen(widths: dict[str, int], choice: Choices, cost: Cost, budget: float) -> None:
    for wider in choice.widths:
        if wider > widths[choice.name]:
            if cost({**widths, choice.name: wider}) <= budget:
                widths[choice.name] = wider
            return
