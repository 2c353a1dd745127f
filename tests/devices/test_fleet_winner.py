"""Which engine each device of a fleet is told to take."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from edgeres.devices.fleet import FleetResult
from edgeres.errors import BackendMissingError
from edgeres.report.fleet_table import fleet_exit_code, fleet_table


def device(name: str, *, doubts: tuple[str, ...] = (), **p50: float) -> FleetResult:
    engines = {
        engine: {
            "latency_ms": {"p50": ms, "p90": ms, "p99": ms},
            "peak_memory_bytes": None,
            "doubts": list(doubts),
        }
        for engine, ms in p50.items()
    }
    machine = {"cpu": "Cortex-A76", "board": "Raspberry Pi 5", "threads": 4}
    found = {"environment": machine, "stable": not doubts, "engines": engines}
    return FleetResult(name, found, None)


def printed(*results: FleetResult) -> str:
    console = Console(width=200, file=io.StringIO())
    console.print(fleet_table(results))
    return console.file.getvalue()


def test_each_device_has_its_own_winner():
    pi = device("pi5", int8=2.0, float=3.0)
    nuc = device("n100", int8=4.0, float=1.0)
    text = printed(pi, nuc)
    assert "pi5: deploy int8, 2.00 ms, 1.50 times as fast as the next" in text
    assert "n100: deploy float, 1.00 ms, 4.00 times as fast as the next" in text
    assert "Cortex-A76, Raspberry Pi 5, 4 CPUs" in text
    told = nuc.to_dict()
    assert told["verdict"] == "steady"
    assert told["winner"] == {"engine": "float", "p50_ms": 1.0, "speedup": 4.0, "margin": 4.0}


@pytest.mark.parametrize(
    ("times", "said"),
    [
        ({"a": 1.0}, "the only one measured"),
        ({"a": 1.0, "b": 1.01}, "take the more exact of the two"),
    ],
)
def test_no_more_is_said_than_was_measured(times, said):
    assert said in printed(device("pi", **times))


def test_doubtful_times_are_no_verdict():
    doubtful = device("pi", doubts=("it throttled",), a=1.0, b=2.0)
    text = printed(doubtful)
    assert doubtful.verdict == "doubtful"
    assert "the times are doubtful, measure again" in text
    assert fleet_exit_code([doubtful]) == 1


def test_a_device_that_failed_wins_nothing():
    gone = FleetResult("jetson", None, BackendMissingError("jetson: no such host."))
    assert (gone.verdict, gone.winner) == ("failed", None)
    assert "jetson: error: jetson: no such host." in printed(device("pi", a=1.0), gone)
