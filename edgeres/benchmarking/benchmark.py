"""Latency of engine files, side by side, with the machine that they were measured on."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeres.backends.base import BuildConfig, Engine, Runner
from edgeres.backends.classifier import single_input
from edgeres.backends.fit import executable_backend
from edgeres.backends.isolate import try_engine
from edgeres.backends.null.backend import NullRunner
from edgeres.backends.sidecar import engine_size, read_engine
from edgeres.benchmarking.energy import Energy, measure_energy
from edgeres.benchmarking.inputs import made_up_inputs
from edgeres.benchmarking.latency import Latency, MeasureSettings, measure
from edgeres.benchmarking.memory import PeakMemory, peak_memory
from edgeres.benchmarking.meters import Meter
from edgeres.benchmarking.speedup import Speedup, speedup
from edgeres.benchmarking.sustained import Sustained, sustain
from edgeres.errors import BackendMissingError, UsageError
from edgeres.system.environment import Environment, describe_environment
from edgeres.system.files import StrPath
from edgeres.system.progress import ProgressCallback

ON_CPU = " on cpu"
"""Behind the name of an engine that runs on the CPU beside its own device."""


@dataclass(frozen=True)
class EngineTimes:
    """One engine of a benchmark.

    Attributes:
        engine: The engine.
        size_bytes: Size of all its files.
        load_ms: Time until it was loaded and ready, in milliseconds.
        latency: Its times.
        speedup: p50 of the first engine over this one's; ``None`` for the first.
        memory: Peak memory of a process with this engine alone; ``None`` where not measured.
        sustained: The long run after the others; ``None`` where none was asked for.
        energy: Of an inference; ``None`` where no meter tells it.
    """

    engine: Engine
    size_bytes: int
    load_ms: float
    latency: Latency
    speedup: Speedup | None
    memory: PeakMemory | None = None
    sustained: Sustained | None = None
    energy: Energy | None = None


@dataclass(frozen=True)
class Benchmark:
    """Several engines that took turns, by the path that was given for each."""

    environment: Environment
    threads: int | None
    engines: Mapping[str, EngineTimes]

    @property
    def stable(self) -> bool:
        """Whether nothing speaks against any of the times."""
        return all(
            times.latency.stable
            and (times.sustained is None or times.sustained.verdict == "steady")
            for times in self.engines.values()
        )

    @property
    def exit_code(self) -> int:
        """0 where all times are stable, else 1."""
        return 0 if self.stable else 1

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values, with the field names of ``report.json``."""
        return {
            "environment": self.environment.to_dict(),
            "threads": self.threads,
            "stable": self.stable,
            "engines": {
                name: {
                    "backend": times.engine.backend,
                    "device": times.engine.device,
                    "versions": dict(times.engine.versions),
                    "size_bytes": times.size_bytes,
                    "load_ms": times.load_ms,
                    **times.latency.to_dict(),
                    **(times.speedup.to_dict() if times.speedup is not None else {}),
                    "peak_memory_bytes": times.memory.engine_bytes if times.memory else None,
                    "process_memory_bytes": times.memory.process_bytes if times.memory else None,
                    "sustained": times.sustained.to_dict() if times.sustained else None,
                    "energy": times.energy.to_dict() if times.energy else None,
                }
                for name, times in self.engines.items()
            },
        }


def benchmark(
    paths: Sequence[StrPath],
    *,
    inputs: Sequence[NDArray[np.float32]] | None = None,
    batch_size: int = 1,
    device: str | None = None,
    threads: int | None = None,
    settings: MeasureSettings | None = None,
    memory: bool = False,
    sustained_s: float | None = None,
    meter: Meter | None = None,
    isolate: bool = False,
    options: Mapping[Path, Mapping[str, str]] | None = None,
    cpu_beside: bool = False,
    progress: ProgressCallback | None = None,
) -> Benchmark:
    """Measures built engines, which take turns; the first is what the others are compared with.

    Args:
        paths: Engine files, each with its sidecar beside it, all with the same input shape.
        inputs: Preprocessed batches; left out, made-up images (times do not depend on content).
        batch_size: Images in a run, for made-up images.
        device: Where to run; left out, where each engine was built for.
        threads: CPU threads; ``None`` leaves the choice to the runtime.
        settings: How long and how often.
        memory: Whether to measure peak memory too, each engine in a process of its own.
        sustained_s: Seconds to run each engine without a pause after that; ``None`` for not at all.
        meter: Tells the energy, in turns after the latency; ``None`` for none.
        isolate: Whether each engine first runs once in a child process, where it may crash or hang.
        options: Options to run an engine with, by its path, beside those that it was built with.
        cpu_beside: Whether an engine for another device takes turns with the same file on the CPU,
            where its runtime has it there: is the device worth it?
        progress: Called with rounds done and rounds in all.

    Raises:
        ArtefactError: No whole engine is there.
        BackendMissingError: An engine cannot run on this machine.
        DataError: The engines do not take the same inputs.
        StageError: An engine crashed or hung in its trial.
        UsageError: No engine, one named twice, a batch below 1, or a meter that stopped telling.
    """
    files = [Path(path) for path in paths]
    if not files or len(set(files)) != len(files) or batch_size < 1:
        raise UsageError(
            f"expected at least one engine, each once, and a batch size of at least 1, got "
            f"{', '.join(map(str, files)) or 'none'} and {batch_size}.",
            hint="Name the engines to compare, the slow one first.",
        )
    engines = {str(path): read_engine(path) for path in files}
    if cpu_beside:
        engines = _with_cpu(engines, device)
    backends = {name: executable_backend(engine) for name, engine in engines.items()}
    if isolate:
        for path in files:
            try_engine(path, device=device)
    load_ms: dict[str, float] = {}
    with ExitStack() as stack:
        runners: dict[str, Runner] = {}
        for name, engine in engines.items():
            engine_options = (options or {}).get(engine.path, {})
            where = engine.device if name.endswith(ON_CPU) else device or engine.device
            config = BuildConfig(where, threads, options=engine_options)
            start = time.perf_counter_ns()
            runners[name] = stack.enter_context(backends[name].load(engine, config))
            load_ms[name] = (time.perf_counter_ns() - start) / 1e6
        first = next(iter(runners.values()))
        sources = sorted(map(single_input, runners.values()), key=lambda s: s.dtype != "uint8")
        images = inputs or made_up_inputs(sources[0], batch_size)  # bytes, if any takes those
        nothing = NullRunner(first.inputs, first.outputs)
        latencies = measure(runners, images, settings=settings, nothing=nothing, progress=progress)
        energies = measure_energy(runners, images, meter, progress=progress) if meter else {}
        long = {
            name: sustain(runner, images, sustained_s, progress=progress)
            for name, runner in runners.items()
            if sustained_s is not None
        }
    reference = latencies[str(files[0])]
    return Benchmark(
        environment=describe_environment(),
        threads=threads,
        engines={
            name: EngineTimes(
                engine=engine,
                size_bytes=engine_size(engine),
                load_ms=load_ms[name],
                latency=latencies[name],
                speedup=None
                if latencies[name] is reference
                else speedup(reference, latencies[name]),
                memory=peak_memory(
                    engine.path,
                    device=engine.device if name.endswith(ON_CPU) else device or engine.device,
                    threads=threads,
                    batch_size=batch_size,
                )
                if memory
                else None,
                sustained=long.get(name),
                energy=energies.get(name),
            )
            for name, engine in engines.items()
        },
    )


def _with_cpu(engines: Mapping[str, Engine], device: str | None) -> dict[str, Engine]:
    """The engines, and behind each one for another device the same file on the CPU."""
    found: dict[str, Engine] = {}
    for name, engine in engines.items():
        found[name] = engine
        backend = executable_backend(engine)
        if (device or engine.device) == "cpu" or not backend.portable_engines:
            continue
        try:
            backend.check(BuildConfig("cpu", options=engine.options))
        except (BackendMissingError, UsageError):  # it was built with what only its device has
            continue
        found[f"{name}{ON_CPU}"] = replace(engine, device="cpu")
    return found
