"""A long run on a made-up clock: what slows is told, and whether the CPU did it."""

from __future__ import annotations

import json

import pytest

from edgeres.benchmarking.sustained import sustain
from edgeres.errors import UsageError


@pytest.mark.parametrize(
    ("engine_slows", "cpu_slows", "verdict"),
    [
        (0.0, 0.0, "steady"),
        (0.3, 0.3, "throttled"),
        (0.3, 0.0, "slowed"),
        (-0.3, 0.0, "sped up"),
        (0.02, 0.3, "steady"),
    ],
)
def test_verdicts(engine, inputs, clock, engine_slows, cpu_slows, verdict: str) -> None:
    def progress() -> float:
        return min(1.0, clock.time / 60e9)

    slow = engine(lambda run, images: 5.0 * (1 + engine_slows * progress()))
    found = sustain(
        slow, inputs, 60.0, clock=clock, work=lambda: round(1000 * (1 + cpu_slows * progress()))
    )
    assert found.verdict == verdict
    assert found.drift == pytest.approx(engine_slows, abs=0.04)
    assert len(found.windows) == 60
    assert found.seconds == pytest.approx(60, rel=0.01)
    assert found.runs == slow.runs - 10  # the warm-up does not count
    assert [w.start_s for w in found.windows] == sorted(w.start_s for w in found.windows)
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["verdict"] == verdict


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_times_that_make_no_sense(engine, inputs, clock, seconds: float) -> None:
    with pytest.raises(UsageError, match="seconds"):
        sustain(engine(1.0), inputs, seconds, clock=clock)
