"""Many devices at once: a YAML file names them, every one runs the same benchmark, one table comes.

devices:
  pi5: {address: "ssh://pi@10.0.0.5", python: /home/pi/edgeres/bin/python, threads: 4}
  here: {address: local}
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from edgeres.devices.address import SshDevice, is_remote, parse_ssh
from edgeres.devices.remote import benchmark_on
from edgeres.errors import EdgeResError, StageError, UsageError
from edgeres.system.yaml_file import plain, read_yaml

LOCAL = "local"
LEAST_MARGIN = 1.02
_KEYS = {"address", "python", "threads", "known_hosts", "identity"}


@dataclass(frozen=True)
class FleetDevice:
    """One device; ``ssh`` is ``None`` for this machine."""

    name: str
    ssh: SshDevice | None
    threads: int | None


@dataclass(frozen=True)
class DeviceWinner:
    """The engine to deploy on one device.

    Attributes:
        engine: Its path.
        p50_ms: Its latency there.
        speedup: How many times as fast it is as the yardstick, the first engine.
        margin: How many times as fast as the next one; ``None`` where it is alone.
    """

    engine: str
    p50_ms: float
    speedup: float
    margin: float | None

    @property
    def is_close(self) -> bool:
        """Whether the next one is less than two percent slower: then take the more exact."""
        return self.margin is not None and self.margin < LEAST_MARGIN


@dataclass(frozen=True)
class FleetResult:
    """What one device gave: its benchmark as plain JSON values, or why there is none."""

    name: str
    found: Mapping[str, Any] | None
    error: EdgeResError | None

    def named(self, names: Mapping[str, str]) -> FleetResult:
        """The same with other names for the engines, by path."""
        if self.found is None:
            return self
        engines = {names.get(path, path): times for path, times in self.found["engines"].items()}
        return replace(self, found={**self.found, "engines": engines})

    @property
    def verdict(self) -> str:
        """``steady``, ``doubtful`` where something speaks against its times, or ``failed``."""
        if self.error is not None or self.found is None:
            return "failed"
        return "steady" if self.found["stable"] else "doubtful"

    @property
    def winner(self) -> DeviceWinner | None:
        """The fastest engine there; ``None`` where none was measured."""
        if self.error is not None or self.found is None:
            return None
        p50 = {name: part["latency_ms"]["p50"] for name, part in self.found["engines"].items()}
        (best, fastest), *others = sorted(p50.items(), key=lambda item: item[1])
        first = next(iter(p50.values()))
        margin = others[0][1] / fastest if others else None
        return DeviceWinner(best, fastest, first / fastest, margin)

    def to_dict(self) -> dict[str, object]:
        """As plain JSON values."""
        if self.error is not None:
            told = {"id": self.error.error_id, "message": self.error.message}
            return {"error": {**told, "hint": self.error.hint, "exit_code": self.error.exit_code}}
        winner = self.winner
        return {
            **(self.found or {}),
            "verdict": self.verdict,
            "winner": None if winner is None else asdict(winner),
        }


def load_fleet(path: Path) -> list[FleetDevice]:
    """Reads a fleet file; paths in it are relative to it.

    Raises:
        UsageError: No such file, not YAML, or a device that makes no sense.
    """
    hint = "See docs/devices.md."
    content = plain(read_yaml(path, what="a fleet file", error=UsageError, hint=hint))
    entries = content.get("devices")
    if not isinstance(entries, dict) or not entries:
        raise UsageError(f"{path}: expected `devices:` with at least one.", hint=hint)
    return [_device(path, str(name), entry) for name, entry in entries.items()]


def benchmark_fleet(
    devices: Sequence[FleetDevice],
    paths: Sequence[Path],
    *,
    batch_size: int = 1,
    seconds: float = 4.0,
    say: Callable[[str], None] | None = None,
) -> list[FleetResult]:
    """Runs the same benchmark on all devices at the same time.

    Args:
        devices: The fleet.
        paths: Engine files; the first is the yardstick.
        batch_size: Images in a run.
        seconds: Time measured for each engine.
        say: Called when a connection was lost.

    Returns:
        A result for each device, in their order; one that fails does not stop the others.
    """

    def one(device: FleetDevice) -> FleetResult:
        try:
            if device.ssh is None:
                found = _here(paths, batch_size, device.threads, seconds)
            else:
                found = benchmark_on(
                    device.ssh,
                    paths,
                    batch_size=batch_size,
                    threads=device.threads,
                    seconds=seconds,
                    say=say,
                )
        except EdgeResError as error:
            return FleetResult(device.name, None, error)
        except Exception as error:  # whatever a host can cause must not stop the others
            told = f"{device.name}: {type(error).__name__}: {' '.join(str(error).split())[:300]}."
            return FleetResult(device.name, None, StageError(told, hint="See the host."))
        return FleetResult(device.name, found, None)

    with ThreadPoolExecutor(len(devices), thread_name_prefix="edgeres-fleet") as pool:
        return list(pool.map(one, devices))


def _here(
    paths: Sequence[Path], batch_size: int, threads: int | None, seconds: float
) -> dict[str, Any]:
    from edgeres.benchmarking.benchmark import benchmark
    from edgeres.benchmarking.latency import MeasureSettings

    settings = MeasureSettings(seconds=seconds)
    found = benchmark(
        paths, batch_size=batch_size, threads=threads, settings=settings, memory=True, isolate=True
    )
    return {"device": LOCAL, **found.to_dict()}


# ``entry`` is YAML from disk, hence ``Any``.
def _device(path: Path, name: str, entry: Any) -> FleetDevice:
    if not isinstance(entry, dict) or "address" not in entry or set(entry) - _KEYS:
        raise UsageError(
            f"{path}: {name}: expected an address and of {', '.join(sorted(_KEYS))} at most these.",
            hint="See docs/devices.md.",
        )
    threads = entry.get("threads")
    if threads is not None and (not isinstance(threads, int) or threads < 1):
        raise UsageError(f"{path}: {name}: threads: expected 1 or more, got {threads!r}.")
    address = str(entry["address"])
    if address == LOCAL:
        return FleetDevice(name, None, threads)
    if not is_remote(address):
        raise UsageError(
            f"{path}: {name}: expected ssh://[user@]host[:port] or {LOCAL}, got {address!r}.",
            hint="See docs/devices.md.",
        )
    files = {
        key: path.parent / Path(str(entry[key])).expanduser()
        for key in ("known_hosts", "identity")
        if key in entry
    }
    ssh = parse_ssh(address, python=str(entry.get("python", "python3")), **files)
    return FleetDevice(name, ssh, threads)
