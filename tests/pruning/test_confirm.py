"""Widths are built before they are kept, and even ones that are faster are taken instead."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest

from edgeres.layer_latency.predict import LatencyModel
from edgeres.models.cost import layer_macs
from edgeres.pruning.budget import MacsCost
from edgeres.pruning.confirm import Problem, confirm
from edgeres.pruning.groups import ChannelGraph
from edgeres.pruning.latency_cost import module_widths
from edgeres.pruning.prune import prune_module
from edgeres.recipe.prune import PruneSettings

from .test_latency_cost import SHAPE, latency

__all__ = ["latency"]
SETTINGS = PruneSettings(
    allocation="latency", target_latency=0.5, importance="l1", normalization="mean", round_to=2
)


class Device:
    """A bench that knows what layers really take: shapes whose key holds ``dear`` take more."""

    def __init__(self, model: LatencyModel, dear: str = "", factor: float = 1.0, clock: float = 1):
        factors = {n.shape.key: factor for n in model.layers if dear and dear in n.shape.key}
        self.model = replace(model, factors=factors)
        # the dense network was measured, so the model is right about that one
        self.scale = model.dense_ms / self.model.predict_ms({})
        self.clock = clock
        self.calls: list[Mapping[str, Mapping]] = []
        self.notes: list[str] = []
        self.even_bonus = 1.0

    def truth(self, widths: Mapping) -> float:
        return self.scale * self.model.predict_ms(widths)

    def measure(self, widths: Mapping[str, Mapping]) -> dict[str, float]:
        self.calls.append(widths)
        return {
            name: self.clock * self.truth(w) * (self.even_bonus if name == "uniform" else 1)
            for name, w in widths.items()
        }

    def note(self, message: str) -> None:
        self.notes.append(message)


def test_a_prediction_that_holds_is_kept_after_one_round(
    network: Callable, data: Callable, latency: LatencyModel
) -> None:
    module, _ = network("resnet20", in_channels=1)
    device = Device(latency, clock=1.7)  # another speed of the machine changes nothing
    result = prune_module(module, SETTINGS, data(SHAPE), latency=latency, bench=device)
    trusted = prune_module(module, SETTINGS, data(SHAPE), latency=latency)
    assert result.kept == trusted.kept
    found = result.confirmed
    assert found is not None
    assert (len(found.rounds), len(device.calls), len(device.notes)) == (1, 1, 1)
    assert found.predicted_ms == pytest.approx(found.measured_ms)
    assert found.rounds[0].dense_ms == pytest.approx(1.7 * latency.dense_ms)
    assert found.within_budget
    assert result.latency_ms == (pytest.approx(latency.dense_ms), found.predicted_ms)
    json.dumps(found.to_dict())


def test_a_prediction_that_was_too_good_is_mended(
    network: Callable, data: Callable, latency: LatencyModel
) -> None:
    module, _ = network("resnet20", in_channels=1)
    device = Device(latency, dear="input 3x3", factor=3.0)  # the last stage's layers
    budget = 0.5 * latency.dense_ms
    trusted = prune_module(module, SETTINGS, data(SHAPE), latency=latency)
    naive = device.truth(module_widths(trusted.module, latency))
    assert naive > 1.1 * budget  # the winner's curse
    result = prune_module(module, SETTINGS, data(SHAPE), latency=latency, bench=device)
    found = result.confirmed
    assert found is not None
    assert 1 < len(found.rounds) <= 4
    assert found.within_budget
    assert found.measured_ms <= 1.02 * budget
    assert abs(found.predicted_ms / found.measured_ms - 1) < 0.1
    assert found.measured_ms == pytest.approx(device.truth(module_widths(result.module, latency)))
    assert "%" in device.notes[0]


def test_even_widths_that_are_faster_are_taken(
    network: Callable, data: Callable, latency: LatencyModel
) -> None:
    module, _ = network("resnet20", in_channels=1)
    device = Device(latency)
    device.even_bonus = 0.4
    result = prune_module(module, SETTINGS, data(SHAPE), latency=latency, bench=device)
    found = result.confirmed
    assert found is not None
    assert found.kept == "uniform"
    assert found.measured_ms == found.uniform_ms
    graph = ChannelGraph(module, SHAPE)
    shares = [len(result.kept[g.name]) / g.channels for g in graph.groups]
    assert max(shares) - min(shares) < 0.15
    # of no more multiply-adds than the widths by latency of the same round
    macs = MacsCost(graph.groups, layer_macs(module, SHAPE))
    mine = next(r for r in found.rounds if r.uniform_widths == found.widths)
    assert 0.9 * macs(mine.widths) < macs(found.widths) <= macs(mine.widths)
    assert sum(layer_macs(result.module, SHAPE).values()) == pytest.approx(macs(found.widths))


def test_after_even_widths_were_faster_the_search_stays_near_them(
    network: Callable, data: Callable, latency: LatencyModel
) -> None:
    module, _ = network("resnet20", in_channels=1)
    whole = module_widths(module, latency)

    class Uneven(Device):
        """Layers that keep much more or less than the others are slow, which no table knows."""

        def truth(self, widths: Mapping) -> float:
            shares = [out / whole[name][1] for name, (_, out) in widths.items() if name != "fc"]
            apart = max(shares) - min(shares) if shares else 0.0
            return super().truth(widths) * (1.5 if apart > 0.6 else 1.0)

    device = Uneven(latency)
    found = prune_module(module, SETTINGS, data(SHAPE), latency=latency, bench=device).confirmed
    assert found is not None
    first, *others = found.rounds
    assert first.kept == "uniform"
    graph = ChannelGraph(module, SHAPE)
    for narrower, region in zip(others, (0.25, 0.125, 0.0625), strict=False):
        for group in graph.groups:
            moved = abs(narrower.widths[group.name] - first.uniform_widths[group.name])
            assert moved <= region * group.channels
        if narrower.kept == "latency":
            break
    assert found.kept == "latency"
    assert found.within_budget


def test_only_the_last_round_of_pruning_is_built(
    network: Callable, data: Callable, latency: LatencyModel
) -> None:
    module, _ = network("resnet20", in_channels=1)
    device = Device(latency)
    settings = SETTINGS.replace(iterative_steps=2)
    result = prune_module(module, settings, data(SHAPE), latency=latency, bench=device)
    assert len(device.calls) == 1
    assert result.confirmed is not None
    assert result.confirmed.measured_ms == pytest.approx(
        device.truth(module_widths(result.module, latency))
    )


def test_a_goal_that_only_the_prediction_reaches_is_told(
    network: Callable, data: Callable, latency: LatencyModel
) -> None:
    module, _ = network("resnet20", in_channels=1)

    class Floor(Device):
        def truth(self, widths: Mapping) -> float:
            return max(super().truth(widths), 0.8 * latency.dense_ms)

    device = Floor(latency)
    found = prune_module(module, SETTINGS, data(SHAPE), latency=latency, bench=device).confirmed
    assert found is not None
    assert not found.within_budget
    assert found.measured_ms == pytest.approx(0.8 * latency.dense_ms)


def test_a_round_that_chooses_the_same_again_ends_the_search(latency: LatencyModel) -> None:
    device = Device(latency, dear="input", factor=1.0)
    device.scale = 1.5  # everything but the dense network takes longer: no factor can mend it
    problem = Problem(
        solve=lambda *_: {"a": 8}, even=lambda _: {"a": 4}, layers=lambda w: {"fc": (64, 5)},
        loss=lambda _: 0.0,
    )  # fmt: skip
    found = confirm(problem, latency, device)
    assert len(found.rounds) == 1
