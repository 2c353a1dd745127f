"""Meters: files as Linux shows them, and commands of the user's that are really started."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from edgeres.benchmarking.meters import CommandMeter, CounterMeter, find_meter
from edgeres.errors import UsageError


def lay(folder: Path, **files: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(f"{content}\n")
    return folder


def test_nothing_is_found_where_nothing_is_shown(tmp_path: Path) -> None:
    assert find_meter(tmp_path) is None
    lay(tmp_path / "class/hwmon/hwmon0", name="coretemp", in1_input=12000, curr1_input=100)
    lay(tmp_path / "class/powercap/intel-rapl:0", name="psys", energy_uj=5)
    lay(tmp_path / "class/powercap/intel-rapl:1", name="package-0")  # only root may read its energy
    assert find_meter(tmp_path) is None


def test_all_packages_of_the_cpu_are_added_and_their_parts_are_not(tmp_path: Path) -> None:
    zones = tmp_path / "class/powercap"
    first = lay(zones / "intel-rapl:0", name="package-0", energy_uj=1_000_000)
    lay(first, max_energy_range_uj=9_999_999)
    second = lay(zones / "intel-rapl:1", name="package-1", energy_uj=500)
    lay(zones / "intel-rapl:0:0", name="core", energy_uj=7)
    meter = find_meter(tmp_path)
    assert meter is not None
    with meter:
        assert meter.joules() == 0.0
        lay(first, energy_uj=3_500_000)
        lay(second, energy_uj=1_000_500)
        lay(zones / "intel-rapl:0:0", energy_uj=9_000_000)
        assert meter.joules() == pytest.approx(3.5)


def test_a_counter_that_goes_round_has_gone_on(tmp_path: Path) -> None:
    file = lay(tmp_path, energy=9_000_000) / "energy"
    meter = CounterMeter([(file, 9_999_999)], "x")
    lay(tmp_path, energy=1_000_000)
    assert meter.joules() == pytest.approx(2.0)
    lay(tmp_path, energy=4_000_000)
    assert meter.joules() == pytest.approx(5.0)


def jetson(root: Path, labels: list[str]) -> Path:
    """A sensor with three channels of 2, 3 and 4 W; behind them what is no channel."""
    chip = lay(root / "class/hwmon/hwmon3", name="ina3221")
    for number, label in enumerate(labels, start=1):
        lay(
            chip,
            **{
                f"in{number}_input": 5000,
                f"curr{number}_input": 200 * (number + 1),
                f"in{number}_label": label,
            },
        )
    return lay(chip, in4_input=8, curr4_input=99_000)


@pytest.mark.parametrize(
    ("labels", "watts", "name"),
    [
        (["VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"], 2.0, "VDD_IN"),
        (["GPU", "CPU", "SOC"], 9.0, "GPU, CPU, SOC"),
    ],
)
def test_a_boards_input_holds_its_parts(
    tmp_path: Path, labels: list[str], watts: float, name: str
) -> None:
    chip = jetson(tmp_path, labels)
    meter = find_meter(tmp_path)
    assert meter is not None
    assert meter.name == name
    with meter:
        began, before = time.perf_counter(), meter.joules()
        time.sleep(0.2)
        (chip / "curr1_input").unlink()  # busy: what it said last holds
        time.sleep(0.1)
        took, joules = time.perf_counter() - began, meter.joules() - before
    assert joules == pytest.approx(watts * took, rel=0.02)


def test_a_sensor_of_power_alone(tmp_path: Path) -> None:
    lay(tmp_path / "class/hwmon/hwmon0", name="ina226", power1_input=1_500_000)
    meter = find_meter(tmp_path)
    assert meter is not None
    with meter:
        began = time.perf_counter()
        time.sleep(0.1)
        assert meter.joules() == pytest.approx(1.5 * (time.perf_counter() - began), rel=0.1)


def program(text: str) -> str:
    return f'{sys.executable} -uc "{text}"'


def test_watts_hold_until_the_next_line() -> None:
    with CommandMeter(program("import time; print(4); time.sleep(60)")) as meter:
        began, before = time.perf_counter(), meter.joules()
        time.sleep(0.2)
        assert meter.joules() - before == pytest.approx(4 * (time.perf_counter() - began), rel=0.05)


def test_joules_are_counted_from_the_first_line() -> None:
    text = "import time; print('100 J'); time.sleep(.1); print('102.5 J'); time.sleep(60)"
    with CommandMeter(program(text)) as meter:
        deadline = time.monotonic() + 30
        while meter.joules() == 0.0 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert meter.joules() == 2.5


@pytest.mark.parametrize(
    ("command", "part"),
    [
        ("", "cannot be started"),
        ("no-such-program-at-all", "cannot be started"),
        ("'", "cannot be started"),
        (program("print('-5 W')"), "it printed '-5 W'"),
        (program("print(chr(27) + '[31m many')"), "many"),
        (program("pass"), "it has ended"),
    ],
)
def test_what_is_no_meter_is_one_line(command: str, part: str) -> None:
    with pytest.raises(UsageError, match="the meter") as caught, CommandMeter(command):
        pytest.fail("it opened")
    assert part in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_command_that_ends_is_told_while_measuring() -> None:
    with CommandMeter(program("import time; print('1 W'); time.sleep(.2)")) as meter:
        deadline = time.monotonic() + 30
        while not meter._failure and time.monotonic() < deadline:
            time.sleep(0.01)
        with pytest.raises(UsageError, match="it has ended"):
            meter.joules()


def test_a_silent_command_is_stopped_with_what_it_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeres.benchmarking.meters._FIRST_LINE_S", 0.3)
    began = time.monotonic()
    with (
        pytest.raises(UsageError, match="no line within"),
        CommandMeter("sh -c 'sleep 60; true'"),
    ):
        pytest.fail("it opened")
    assert time.monotonic() - began < 20
