"""Memory that an engine takes: measured in a process of its own, so that no other one counts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeres.backends.base import Array, BuildConfig
from edgeres.backends.classifier import single_input
from edgeres.backends.fit import executable_backend
from edgeres.backends.sidecar import read_engine
from edgeres.system.child import run_limited
from edgeres.system.memory import peak_rss_bytes

_RUNS = 10
_SECONDS = 300.0


@dataclass(frozen=True)
class PeakMemory:
    """Resident memory in bytes.

    Attributes:
        engine_bytes: Peak while the engine was loaded and run, less what the process had before.
        process_bytes: Peak of the whole process, Python and the runtime's libraries included.
    """

    engine_bytes: int
    process_bytes: int


def peak_memory(path: Path, *, device: str, threads: int | None, batch_size: int = 1) -> PeakMemory:
    """Loads and runs an engine in a child process.

    Args:
        path: The engine file.
        device: Where it runs. Memory of a GPU is not counted, only the host's.
        threads: CPU threads; ``None`` leaves the choice to the runtime.
        batch_size: Images in a run.

    Raises:
        EdgeResError: As the backend's ``load``.
        StageError: The child crashed.
    """
    measure = run_limited(measure_here, seconds=_SECONDS, memory_bytes=None)
    before, peak = measure(path, device, threads, batch_size)
    return PeakMemory(max(0, peak - before), peak)


def measure_here(path: Path, device: str, threads: int | None, batch_size: int) -> list[int]:
    """Resident bytes before loading and at the peak after some runs: what the child calls."""
    import psutil

    from edgeres.benchmarking.inputs import made_up_inputs

    engine = read_engine(path)
    backend = executable_backend(engine)
    backend.versions()  # loads the runtime's libraries, which are not the engine's memory
    before = int(psutil.Process().memory_info().rss)
    with backend.load(engine, BuildConfig(device=device, threads=threads)) as runner:
        source = single_input(runner)
        for images in made_up_inputs(source, batch_size):
            feed: dict[str, Array] = {source.name: np.ascontiguousarray(images, source.dtype)}
            for _ in range(_RUNS):
                runner.infer(feed)
    return [before, peak_rss_bytes()]
