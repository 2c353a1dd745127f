"""Memory that an engine takes: measured in a process of its own, so that no other one counts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeres.backends.base import Array, BuildConfig
from edgeres.backends.classifier import single_input
from edgeres.backends.fit import executable_backend
from edgeres.backends.sidecar import read_engine
from edgeres.errors import StageError
from edgeres.system.child import JsonValue, run_limited

_RUNS = 10
_SECONDS = 300.0
_STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class PeakMemory:
    """Resident memory in bytes.

    Attributes:
        engine_bytes: Peak while the engine was loaded and run, less what the process had before.
        process_bytes: Peak of the whole process, Python and the runtime's libraries included.
    """

    engine_bytes: int
    process_bytes: int


def peak_memory(
    path: Path, *, device: str, threads: int | None, batch_size: int = 1
) -> PeakMemory | None:
    """Loads and runs an engine in a child process; ``None`` where the system does not tell (Linux).

    Args:
        path: The engine file.
        device: Where it runs. Memory of a GPU is not counted, only the host's.
        threads: CPU threads; ``None`` leaves the choice to the runtime.
        batch_size: Images in a run.

    Raises:
        EdgeResError: As the backend's ``load``.
        StageError: The child crashed.
    """
    if not _STATUS.is_file():
        return None
    found = run_limited(
        "edgeres.benchmarking.memory:measure_here",
        {
            "path": str(path.resolve()),
            "device": device,
            "threads": threads,
            "batch_size": batch_size,
        },
        seconds=_SECONDS,
        memory_bytes=None,
    )
    if not isinstance(found, list) or len(found) != 2:
        raise StageError("the memory measurement gave no result.", hint="Run again.")
    before, peak = (int(str(number)) for number in found)
    return PeakMemory(max(0, peak - before), peak)


def measure_here(path: str, device: str, threads: int | None, batch_size: int) -> JsonValue:
    """Resident bytes before loading and at the peak after some runs: what the child calls."""
    from edgeres.benchmarking.inputs import made_up_inputs

    engine = read_engine(Path(path))
    backend = executable_backend(engine)
    backend.versions()  # loads the runtime's libraries, which are not the engine's memory
    before = resident_bytes("VmRSS")
    with backend.load(engine, BuildConfig(device=device, threads=threads)) as runner:
        source = single_input(runner)
        for images in made_up_inputs(source, batch_size):
            feed: dict[str, Array] = {source.name: np.ascontiguousarray(images, source.dtype)}
            for _ in range(_RUNS):
                runner.infer(feed)
    return [before, resident_bytes("VmHWM")]


def resident_bytes(field: str) -> int:
    """``VmRSS`` (now) or ``VmHWM`` (peak) of this process; see man proc_pid_status."""
    for line in _STATUS.read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise StageError(f"{_STATUS} has no {field}.", hint="Measure on Linux.")
