"""The machine's own counters."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import pytest

from edgeres.benchmarking import load
from edgeres.benchmarking.load import Moment, fixed_work_ns, now, other_load, usable_cpus


def test_other_load_is_what_is_left_over() -> None:
    start = Moment(wall_s=10.0, own_s=3.0, busy_s=100.0)
    end = Moment(wall_s=12.0, own_s=5.0, busy_s=105.0)
    assert other_load(start, end) == pytest.approx(1.5)
    assert other_load(start, Moment(12.0, 9.0, 105.0)) == 0.0


def test_unknown_or_too_short_is_told_as_such() -> None:
    start = Moment(10.0, 3.0, 100.0)
    assert other_load(start, Moment(10.01, 3.0, 100.0)) is None
    assert other_load(start, Moment(12.0, 3.0, None)) is None


def test_counters_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(percpu: bool) -> None:
        raise FileNotFoundError

    monkeypatch.setattr("psutil.cpu_times", refuse)
    assert now().busy_s is None


def test_counters_of_usable_cpus_only(monkeypatch: pytest.MonkeyPatch) -> None:
    linux = namedtuple("linux", "user nice system idle iowait irq softirq steal guest guest_nice")
    counts = [linux(1, 0.1, 0.5, 9.99, 0.07, 0.01, 0.02, 0.3, 0.05, 0), linux(*[99] * 10)]
    monkeypatch.setattr("psutil.cpu_times", lambda percpu: counts)
    monkeypatch.setattr(load, "_affinity", lambda: frozenset({0}))
    # Idle, iowait and guest do not count; stolen time does.
    assert now().busy_s == pytest.approx(1.93)


def test_counters_of_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    windows = namedtuple("windows", "user system idle interrupt dpc")
    counts = [windows(1, 0.5, 9, 0.2, 0.1)] * 2  # what interrupts took is part of system
    monkeypatch.setattr("psutil.cpu_times", lambda percpu: counts)
    monkeypatch.setattr(load, "_affinity", frozenset)
    assert now().busy_s == pytest.approx(3.0)


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="needs /proc/stat")
def test_a_busy_neighbour_is_seen() -> None:
    code = "while True: pass"
    with subprocess.Popen([sys.executable, "-c", code]) as neighbour:
        try:
            time.sleep(0.2)
            start = now()
            time.sleep(0.6)
            end = now()
        finally:
            neighbour.kill()
    found = other_load(start, end)
    assert found is not None
    assert found > 0.3


def test_fixed_work_takes_time() -> None:
    assert fixed_work_ns() > 0
    assert usable_cpus() >= 1
