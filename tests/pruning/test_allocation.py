"""Widths: rounding, floors, budgets, and what the search gives against trying everything."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeres.errors import UsageError
from edgeres.models.cost import count_macs, layer_macs
from edgeres.pruning.allocation import (
    Choices,
    allocate_by_importance,
    allocate_by_latency,
    allocate_uniform,
    width_choices,
)
from edgeres.pruning.budget import MacsCost
from edgeres.pruning.groups import ChannelGraph, ChannelGroup


def group(channels: int, unit: int = 1, name: str = "g") -> ChannelGroup:
    return ChannelGroup(name, channels, unit, ())


@pytest.mark.parametrize(
    ("channels", "unit", "round_to", "min_share", "widths"),
    [
        (32, 1, 8, 0.1, (8, 16, 24, 32)),
        (32, 1, 8, 0.3, (16, 24, 32)),
        (20, 1, 8, 0.05, (8, 16, 20)),
        (32, 16, 8, 0.05, (16, 32)),
        (24, 3, 8, 0.05, (24,)),
        (6, 1, 8, 0.1, (6,)),
        (1, 1, 1, 0.1, (1,)),
        (4, 1, 1, 0.1, (1, 2, 3, 4)),
    ],
)
def test_width_choices(
    channels: int, unit: int, round_to: int, min_share: float, widths: tuple[int, ...]
) -> None:
    scores = np.arange(channels, dtype=np.float64)[::-1].copy()
    found = width_choices(group(channels, unit), scores, round_to=round_to, min_share=min_share)
    assert found.widths == widths
    # the lowest scores are lost first
    assert found.losses == tuple(sum(range(channels - w)) for w in widths)


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[Choices], list[float], float]:
    """Groups with convex losses, a price a channel for each, and a budget above the floor."""
    count = draw(st.integers(1, 4))
    choices, prices = [], []
    for i in range(count):
        steps = sorted(draw(st.lists(st.floats(0.01, 10), min_size=1, max_size=4)))
        choices.append(
            Choices(
                f"g{i}",
                tuple(8 * (k + 1) for k in range(len(steps) + 1)),
                tuple(reversed([0.0, *np.cumsum(steps).tolist()])),
                8 * (len(steps) + 1),
            )
        )
        prices.append(draw(st.floats(0.1, 10)))
    floor = sum(p * c.widths[0] for p, c in zip(prices, choices, strict=True))
    full = sum(p * c.widths[-1] for p, c in zip(prices, choices, strict=True))
    return choices, prices, floor + draw(st.floats(0, 1)) * (full - floor) + 1e-9


@settings(deadline=None)
@given(problems())
def test_both_allocations_keep_the_budget_and_leave_no_room(
    problem: tuple[list[Choices], list[float], float],
) -> None:
    choices, prices, budget = problem

    def cost(widths: dict[str, int]) -> float:
        return sum(p * widths[c.name] for p, c in zip(prices, choices, strict=True))

    for allocate in (allocate_uniform, allocate_by_importance):
        widths = allocate(choices, cost, budget)
        assert cost(widths) <= budget
        for choice in choices:
            assert widths[choice.name] in choice.widths
    # by importance: no single group could be wider
    for choice in choices:
        for wider in choice.widths:
            if wider > widths[choice.name]:
                assert cost({**widths, choice.name: wider}) > budget


def least_loss(
    choices: list[Choices], cost: Callable[[dict[str, int]], float], budget: float
) -> float:
    """Of all widths within the budget, by trying them all."""
    everything = (
        dict(zip([c.name for c in choices], widths, strict=True))
        for widths in itertools.product(*(c.widths for c in choices))
    )
    return min(lost(choices, widths) for widths in everything if cost(widths) <= budget)


def lost(choices: list[Choices], widths: dict[str, int]) -> float:
    return sum(c.losses[c.widths.index(widths[c.name])] for c in choices)


@settings(deadline=None)
@given(problems(), st.floats(0.1, 10))
def test_by_importance_is_the_best_where_all_channels_cost_the_same(
    problem: tuple[list[Choices], list[float], float], price: float
) -> None:
    choices, _, _ = problem

    def cost(widths: dict[str, int]) -> float:
        return sum(price * width for width in widths.values())

    low, high = (cost({c.name: c.widths[end] for c in choices}) for end in (0, -1))
    budget = (low + high) / 2 + 1e-9
    found = lost(choices, allocate_by_importance(choices, cost, budget))
    assert found == pytest.approx(least_loss(choices, cost, budget))


def test_by_importance_can_be_steps_from_the_best_where_they_cost_unlike() -> None:
    """One dear step would do, and each cheaper one looks better per millisecond up to the budget.

    No fixed number of steps bounds this loss: each halving of what is left can add half a step,
    because savings count up to the budget only.
    """
    steps = [("dear", 100.0, 1.0), *((f"half {p}", float(p), 0.49) for p in (32, 16, 8, 4, 2))]
    steps.append(("last", 2.0, 0.9))
    choices = [Choices(name, (8, 16), (loss, 0.0), 16) for name, _, loss in steps]

    def cost(widths: dict[str, int]) -> float:
        return sum(price * (widths[name] // 8 - 1) for name, price, _ in steps)

    budget = cost({name: 16 for name, _, _ in steps}) - 64
    assert least_loss(choices, cost, budget) == 1.0  # the dear one alone
    found = lost(choices, allocate_by_importance(choices, cost, budget))
    assert found == pytest.approx(5 * 0.49 + 0.9)  # all the others


@settings(deadline=None)
@given(problems())
def test_exchanges_keep_the_budget_and_lose_no_more_than_the_greedy_choice(
    problem: tuple[list[Choices], list[float], float],
) -> None:
    choices, prices, budget = problem

    def cost(widths: dict[str, int]) -> float:
        """Stairs of 16 channels."""
        pairs = zip(prices, choices, strict=True)
        return sum(p * (-(-widths[c.name] // 16) * 16) for p, c in pairs)

    def loss(widths: dict[str, int]) -> float:
        return sum(c.losses[c.widths.index(widths[c.name])] for c in choices)

    try:
        greedy = allocate_by_importance(choices, cost, budget)
    except UsageError:
        with pytest.raises(UsageError):
            allocate_by_latency(choices, cost, budget)
        return
    found = allocate_by_latency(choices, cost, budget)
    assert cost(found) <= budget
    assert loss(found) <= loss(greedy) + 1e-9


def test_an_exchange_finds_what_the_greedy_choice_misses() -> None:
    """The best rate comes first, and then a second step saves more than is needed."""
    choices = [
        Choices("a", (8, 16), (2.0, 0.0), 16),
        Choices("b", (8, 16), (1.5, 0.0), 16),
        Choices("c", (8, 16), (1.4, 0.0), 16),
    ]
    prices = {"a": 3.0, "b": 2.0, "c": 2.0}

    def cost(widths: dict[str, int]) -> float:
        return sum(prices[name] * (width // 8) for name, width in widths.items())

    assert allocate_by_importance(choices, cost, 10.0) == {"a": 8, "b": 16, "c": 8}
    assert allocate_by_latency(choices, cost, 10.0) == {"a": 16, "b": 8, "c": 8}


def test_stairs_of_a_device_are_walked_down() -> None:
    """Milliseconds that fall only every 16 channels: steps that save nothing are passed."""
    choices = [Choices("g", (8, 16, 24, 32), (9.0, 4.0, 1.0, 0.0), 32)]

    def cost(widths: dict[str, int]) -> float:
        return -(-widths["g"] // 16) * 1.0

    assert allocate_by_importance(choices, cost, 1.5) == {"g": 16}
    assert allocate_uniform(choices, cost, 1.5) == {"g": 16}
    assert allocate_by_importance(choices, cost, 2.0) == {"g": 32}


def test_uniform_shares_are_of_the_widths_before_the_first_round() -> None:
    """A group that is narrower than its share already is not narrowed further than the others."""
    scores = np.ones(64)
    narrowed = width_choices(group(40, name="a"), scores[:40], round_to=8, min_share=0.1, whole=64)
    untouched = width_choices(group(64, name="b"), scores, round_to=8, min_share=0.1, whole=64)
    widths = allocate_uniform([narrowed, untouched], lambda w: w["a"] + w["b"], 72.0)
    assert widths == {"a": 40, "b": 32}
    assert (
        width_choices(group(40), scores[:40], round_to=8, min_share=0.5, whole=64).widths[0] == 32
    )


def test_a_budget_below_the_floor_names_layer_and_floor() -> None:
    choices = [Choices("a", (8, 64), (1.0, 0.0), 64), Choices("b", (16, 32), (1.0, 0.0), 32)]

    def cost(widths: dict[str, int]) -> float:
        return float(sum(widths.values()))

    for allocate in (allocate_uniform, allocate_by_importance):
        with pytest.raises(
            UsageError, match=r"0\.250 of the cost.*budget of 0\.200; 'b' .* 16 of 32"
        ):
            allocate(choices, cost, 0.2 * 96)
        assert allocate(choices, cost, 24) == {"a": 8, "b": 16}
        with pytest.raises(UsageError, match="Nothing can be pruned"):
            allocate([Choices("a", (64,), (0.0,), 64)], cost, 32)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("resnet20", (1, 12, 12)), ("resnext50_32x4d", (3, 32, 32)), ("seresnet18", (3, 32, 32))],
)
def test_predicted_cost_is_the_cost(
    name: str, shape: tuple[int, int, int], network: Callable
) -> None:
    module, _ = network(name, in_channels=shape[0], width_multiplier=0.5)
    graph = ChannelGraph(module, shape)
    macs = layer_macs(module, shape)
    cost = MacsCost(graph.groups, macs)
    assert cost.total == cost({}) == count_macs(module, shape)
    assert cost.share_of(graph.groups[0]) == pytest.approx(
        sum(macs[m.layer] for m in graph.groups[0].members if m.layer in macs) / cost.total
    )
    generator = np.random.default_rng(0)
    removed = {
        g.name: list(range(g.unit * int(generator.integers(0, g.channels // g.unit))))
        for g in graph.groups
    }
    widths = {g.name: g.channels - len(removed[g.name]) for g in graph.groups}
    graph.remove(removed)
    assert cost(widths) == pytest.approx(count_macs(module, shape), rel=1e-12)
