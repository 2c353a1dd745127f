"""What tells how much energy this machine has used: CPU counters, board sensors, or a command.

Linux shows the RAPL counters of x86 CPUs under ``/sys/class/powercap`` (root may read them), and
the current and voltage sensors of boards, such as a Jetson's INA3221, under ``/sys/class/hwmon``.
Anything else, a metering plug say, speaks through a command of the user's.

None of the sensors was at hand when this was written: the files are read as the kernel's documents
describe them (Documentation/power/powercap, Documentation/hwmon/sysfs-interface.rst).
"""

from __future__ import annotations

import re
import shlex
import subprocess
import threading
import time
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from edgeres.errors import UsageError
from edgeres.system.child import kill_group
from edgeres.system.closing import Closing
from edgeres.system.foreign_text import visible

SYS = Path("/sys")
_SAMPLE_S = 0.02
_FIRST_LINE_S = 10.0
_LINE = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?)\s*(W|J)?\s*")
#: Channels that see all that the board draws; the others of that sensor are parts of it.
_WHOLE_BOARD = ("VDD_IN", "POM_5V_IN")
_BOARD_SENSORS = "ina"  # INA219, INA226, INA3221 and their like
_CHANNELS = "123"  # behind them an INA3221 shows voltages of its shunts, and sums


class Meter(Closing):
    """Counts energy while its ``with`` block lasts."""

    name: str
    """What it reads, for people."""

    @abstractmethod
    def joules(self) -> float:
        """Energy since some moment before the block's beginning, in joules.

        Raises:
            UsageError: A command that stopped telling.
        """


class CounterMeter(Meter):
    """Counters of used energy that the kernel keeps and that begin anew at their end.

    Args:
        files: Each holds microjoules, together with the highest value or 0 where it has none.
        name: For people.
    """

    def __init__(self, files: Sequence[tuple[Path, float]], name: str) -> None:
        self.name = name
        self._files = files
        self._last = [_number(file) for file, _ in files]
        self._sum = 0.0

    def joules(self) -> float:
        """All counters since this was made; to be asked before one has gone round twice."""
        for index, (file, highest) in enumerate(self._files):
            now = _number(file)
            step = now - self._last[index]
            self._sum += step + highest + 1 if step < 0 else step
            self._last[index] = now
        return self._sum / 1e6

    def close(self) -> None:
        """Holds nothing."""


class PowerMeter(Meter):
    """Power that is read 50 times a second and added up over time.

    Args:
        channels: Of each the files whose product is microwatts: its power, or its millivolts and
            its milliamperes.
        name: For people.
    """

    def __init__(self, channels: Sequence[tuple[Path, ...]], name: str) -> None:
        self.name = name
        self._channels = channels
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._joules = 0.0
        self._watts = 0.0
        self._at = 0.0
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Self:
        self._at = time.perf_counter()
        self._thread.start()
        return self

    def close(self) -> None:
        """Ends the reading."""
        self._over.set()
        self._thread.join()

    def joules(self) -> float:
        """Energy from the beginning of the block to this very moment."""
        with self._lock:
            self._add()
            return self._joules

    def _sample(self) -> None:
        while not self._over.wait(_SAMPLE_S):
            with self._lock:
                self._add()

    def _add(self) -> None:
        with suppress(OSError, ValueError):  # a sensor that is busy: what it said last still holds
            self._watts = sum(_product(files) for files in self._channels) / 1e6
        now = time.perf_counter()
        self._joules += self._watts * (now - self._at)
        self._at = now


class CommandMeter(Meter):
    """A command of the user's that prints a number a line, for as long as it runs.

    Args:
        command: What to start, as in a shell but without one. ``12.3`` or ``12.3 W`` is power that
            holds until the next line; ``456 J`` is a counter of energy.
    """

    def __init__(self, command: str) -> None:
        self.name = "command"
        self._command = command
        self._lock = threading.Lock()
        self._told = threading.Event()
        self._joules = 0.0
        self._watts = 0.0
        self._first: float | None = None
        self._at = 0.0
        self._failure = ""

    def __enter__(self) -> Self:
        try:
            words = shlex.split(self._command)
            self._process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                text=True,
                errors="replace",
                start_new_session=True,  # what it starts itself ends with it
            )
        except (OSError, ValueError, IndexError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise self._error(f"it cannot be started ({reason})") from error
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        if not self._told.wait(_FIRST_LINE_S):
            self.close()
            raise self._error(f"it printed no line within {_FIRST_LINE_S:g} s")
        if self._failure:
            self.close()
            raise self._error(self._failure)
        return self

    def joules(self) -> float:
        """Energy since the first line."""
        with self._lock:
            if self._failure:
                raise self._error(self._failure)
            self._add_power()
            return self._joules

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            found = _LINE.fullmatch(line)
            with self._lock:
                if found is None:
                    self._failure = f"it printed {visible(line.strip())[:60]!r}"
                elif found[2] == "J":
                    value = float(found[1])
                    self._first = value if self._first is None else self._first
                    self._joules = value - self._first
                else:
                    self._add_power()
                    self._watts = float(found[1])
            self._told.set()
            if found is None:
                return
        with self._lock:
            self._failure = self._failure or "it has ended"
        self._told.set()

    def _add_power(self) -> None:
        now = time.perf_counter()
        self._joules += self._watts * (now - self._at)
        self._at = now

    def close(self) -> None:
        """Ends the command."""
        kill_group(self._process)
        self._process.wait()
        self._thread.join()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _error(self, what: str) -> UsageError:
        return UsageError(
            f"the meter `{visible(self._command)}`: {what}.",
            hint="It shall print watts (12.3 W) or joules so far (456 J), a line at a time, until "
            "it is stopped.",
        )


def find_meter(sys: Path = SYS) -> Meter | None:
    """The CPU's counters or the board's sensors; ``None`` where none can be read.

    Args:
        sys: Where the kernel shows its devices.
    """
    packages = [
        (zone / "energy_uj", zone / "max_energy_range_uj")
        for zone in sorted(sys.glob("class/powercap/*:*"))
        if zone.name.count(":") == 1 and _readable(zone / "energy_uj")
        if _word(zone / "name").startswith("package")
    ]
    if packages:
        counters = [(file, _number(top) if _readable(top) else 0.0) for file, top in packages]
        return CounterMeter(counters, "RAPL of the CPU")
    channels: dict[str, tuple[Path, ...]] = {}
    for chip in sorted(sys.glob("class/hwmon/hwmon*")):
        if _word(chip / "name").startswith(_BOARD_SENSORS):
            channels |= _channels_of(chip)
    whole = {label: files for label, files in channels.items() if label in _WHOLE_BOARD}
    chosen = whole or channels
    return PowerMeter(list(chosen.values()), ", ".join(chosen)) if chosen else None


def _channels_of(chip: Path) -> dict[str, tuple[Path, ...]]:
    """Power of each labelled channel of a sensor: its own file, or voltage and current."""
    found: dict[str, tuple[Path, ...]] = {}
    for number in _CHANNELS:
        files = (chip / f"in{number}_input", chip / f"curr{number}_input")
        if all(map(_readable, files)):
            label = _word(chip / f"in{number}_label") or f"{_word(chip / 'name')} {number}"
            found[label] = files
    if not found:
        for number in _CHANNELS:
            power = chip / f"power{number}_input"
            if _readable(power):
                label = _word(chip / f"power{number}_label") or f"{_word(chip / 'name')} {number}"
                found[label] = (power,)
    return found


def _readable(file: Path) -> bool:
    try:
        _number(file)
    except (OSError, ValueError):
        return False
    return True


def _number(file: Path) -> float:
    return float(file.read_text())


def _product(files: Sequence[Path]) -> float:
    value = 1.0
    for file in files:
        value *= _number(file)
    return value


def _word(file: Path) -> str:
    try:
        return visible(file.read_text().strip())
    except OSError:
        return ""
