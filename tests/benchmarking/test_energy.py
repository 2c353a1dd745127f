"""Energy of an inference, with engines and a meter that use what is known."""

from __future__ import annotations

import time
from typing import Self

import numpy as np
import pytest

from edgeres.backends.base import Array, BatchLimits
from edgeres.benchmarking.energy import measure_energy
from edgeres.benchmarking.meters import Meter
from edgeres.graph.summary import TensorSpec

IMAGES = [np.full((2, 1, 4, 4), value, np.float32) for value in (0.0, 1.0)]


class World(Meter):
    """Draws 2 W, and what its engines add; its clock is the real one."""

    name = "world"

    def __init__(self, idle: float = 2.0) -> None:
        self.idle = idle
        self.extra = 0.0
        self.began = time.perf_counter()

    def close(self) -> None: ...

    def joules(self) -> float:
        return self.extra + self.idle * (time.perf_counter() - self.began)


class Engine:
    inputs = (TensorSpec("x", (None, 1, 4, 4), "float32"),)
    outputs = (TensorSpec("y", (None, 2), "float32"),)
    batch_limits = BatchLimits()

    def __init__(self, world: World, joules: float) -> None:
        self.world, self.joules = world, joules

    def infer(self, feeds: dict[str, Array]) -> dict[str, Array]:
        time.sleep(0.001)
        self.world.extra += self.joules
        return {"y": feeds["x"].mean(axis=(1, 2, 3))}

    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...


def test_an_engines_own_energy_is_told_from_the_machines() -> None:
    world = World()
    engines = {"small": Engine(world, 0.01), "large": Engine(world, 0.05)}
    seen: list[tuple[int, int]] = []
    found = measure_energy(
        engines,
        IMAGES,
        world,
        rounds=3,
        turn_seconds=0.1,
        progress=lambda done, known: seen.append((done, known)),
    )
    assert found["small"].above_idle == pytest.approx(0.01, rel=0.05)
    assert found["large"].above_idle == pytest.approx(0.05, rel=0.05)
    assert found["large"].idle_watts == pytest.approx(2.0, rel=0.05)
    for energy in found.values():
        assert energy.joules_low <= energy.joules <= energy.joules_high
        assert energy.joules > energy.above_idle
        assert energy.watts > energy.idle_watts
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_a_meter_that_stands_still_tells_nothing() -> None:
    world = World(idle=0.0)
    assert measure_energy({"e": Engine(world, 0.0)}, IMAGES, world, turn_seconds=0.01) == {}
