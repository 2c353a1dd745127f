"""The machine's own counters."""

from __future__ import annotations

import subprocess
import sys
import time
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


def test_counters_without_proc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(load, "_STAT", tmp_path / "none")
    assert now().busy_s is None


def test_counters_of_usable_cpus_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stat = tmp_path / "stat"
    stat.write_text(
        "cpu  0 0 0 0 0 0 0 0 0 0\n"
        "cpu0 100 10 50 999 7 1 2 30 5 0\n"
        "cpu1 9999 0 0 0 0 0 0 0 0 0\n"
        "intr 5\n"
    )
    monkeypatch.setattr(load, "_STAT", stat)
    monkeypatch.setattr(load, "_affinity", lambda: frozenset({0}))
    monkeypatch.setattr("os.sysconf", lambda name: 100)
    # Idle (999), iowait (7) and guest (5, 0) do not count; stolen time (30) does.
    assert now().busy_s == pytest.approx(1.93)


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
