"""Finds the fastest run-time options of an engine on this device, and keeps them beside it.

Each backend names the options that change how an engine is run and not what it computes
(``runtime_options``); threads are tried too. One option after the other, all of its values take
turns in one measurement; a value is taken only where it is faster beyond doubt, and answers that
differ from those of the engine as built rule it out. What is kept holds for this CPU with
its instruction sets and is ignored on others.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgeres.backends.base import Backend, BuildConfig, Engine, Runner
from edgeres.backends.classifier import single_input
from edgeres.backends.fit import executable_backend
from edgeres.backends.isolate import try_engine
from edgeres.backends.sidecar import read_engine, write_tuning
from edgeres.benchmarking.inputs import made_up_inputs
from edgeres.benchmarking.latency import Latency, MeasureSettings, measure
from edgeres.benchmarking.speedup import Speedup, speedup
from edgeres.system.container_limits import usable_threads
from edgeres.system.progress import ProgressCallback

_TOLERANCE = 0.01  # of the largest answer
_SEARCH = MeasureSettings(seconds=1.0, rounds=10, warmup_seconds=1.0)
_FINAL = MeasureSettings(seconds=3.0)


@dataclass(frozen=True)
class Tuning:
    """What was found.

    Attributes:
        options: Options that differ from those of the engine as it was built.
        threads: CPU threads; ``None`` where the runtime's own choice is the fastest.
        default_p50_ms: p50 of the engine as it was built.
        p50_ms: p50 with what was found, measured in turns with that.
        gain: Their ratio with its interval.
        tried: Combinations that were measured.
        kept: Whether they were written beside the engine: only where the gain is beyond doubt.
        ruled_out: Values whose answers differ from those of the engine as built.
    """

    options: Mapping[str, str]
    threads: int | None
    default_p50_ms: float
    p50_ms: float
    gain: Speedup
    tried: int
    kept: bool
    ruled_out: tuple[str, ...]

    def to_dict(self) -> dict[str, object]:
        """As plain JSON values."""
        return {
            "options": dict(self.options),
            "threads": self.threads,
            "default_p50_ms": self.default_p50_ms,
            "p50_ms": self.p50_ms,
            "gain": self.gain.value,
            "gain_interval": [self.gain.low, self.gain.high],
            "tried": self.tried,
            "kept": self.kept,
            "ruled_out": list(self.ruled_out),
        }


def tune_runtime(
    path: Path,
    *,
    batch_size: int = 1,
    search: MeasureSettings = _SEARCH,
    final: MeasureSettings = _FINAL,
    isolate: bool = False,
    progress: ProgressCallback | None = None,
) -> Tuning:
    """Tries the options of an engine's backend and writes the fastest into its sidecar.

    Args:
        path: The engine file, with its sidecar beside it.
        batch_size: Images in a run.
        search: How long each value is measured.
        final: How long the found options are measured against the engine as built.
        isolate: Whether the engine first runs once in a child process, where it may crash or hang.
        progress: Called with options done and options in all.

    Raises:
        ArtefactError: No whole engine is there.
        BackendMissingError: The engine cannot run on this machine.
        StageError: The engine crashed or hung in its trial.
        StorageError: The sidecar cannot be written.
    """
    engine = read_engine(path)
    backend = executable_backend(engine)
    if isolate:
        try_engine(path)
    dimensions: list[tuple[str, tuple[str, ...]]] = []
    as_built: dict[str, str] = {}
    for name, values in backend.runtime_options().items():
        as_built[name] = engine.options.get(name, values[0])
        dimensions.append((name, tuple(dict.fromkeys((as_built[name], *values)))))
    # Every option is named: what is left out would be filled in from the build.
    plain = BuildConfig(device=engine.device, options=as_built, tuned=False)
    if engine.device == "cpu":
        counts = ("auto", *map(str, range(1, usable_threads() + 1)))
        dimensions.insert(0, ("threads", counts))
    best = plain
    count = 1
    ruled_out: list[str] = []
    for done, (name, values) in enumerate(dimensions):
        candidates = {value: _with(best, name, value) for value in values}
        current = next(value for value, config in candidates.items() if config == best)
        latencies, differing = _measured(engine, backend, candidates, current, batch_size, search)
        ruled_out += [f"{name}={value}" for value in differing]
        count += len(candidates) - 1
        fastest = min(latencies, key=lambda value: latencies[value].p50_ms)
        if fastest != current and speedup(latencies[current], latencies[fastest]).low > 1.0:
            best = candidates[fastest]
        if progress is not None:
            progress(done + 1, len(dimensions))
    pair = {"default": plain, "found": best}
    times, _ = _measured(engine, backend, pair, "default", batch_size, final)
    gain = speedup(times["default"], times.get("found", times["default"]))
    faster = best != plain and "found" in times and gain.low > 1.0
    tuning = Tuning(
        options={n: v for n, v in best.options.items() if v != as_built[n]},
        threads=best.threads,
        default_p50_ms=times["default"].p50_ms,
        p50_ms=times.get("found", times["default"]).p50_ms,
        gain=gain,
        tried=count,
        kept=faster,
        ruled_out=tuple(ruled_out),
    )
    write_tuning(engine, tuning.to_dict() if faster else None)
    return tuning


def _with(config: BuildConfig, name: str, value: str) -> BuildConfig:
    if name == "threads":
        return replace(config, threads=None if value == "auto" else int(value))
    return replace(config, options={**config.options, name: value})


def _measured(
    engine: Engine,
    backend: Backend,
    configs: Mapping[str, BuildConfig],
    reference: str,
    batch_size: int,
    settings: MeasureSettings,
) -> tuple[dict[str, Latency], list[str]]:
    """Times of all configurations that answer as the reference does, and the others."""
    with ExitStack() as stack:
        runners: dict[str, Runner] = {
            name: stack.enter_context(backend.load(engine, config))
            for name, config in configs.items()
        }
        source = single_input(runners[reference])
        inputs = made_up_inputs(source, batch_size)
        feed = {source.name: inputs[0].astype(source.dtype)}
        answers = {
            name: next(iter(runner.infer(feed).values())).astype(np.float64)
            for name, runner in runners.items()
        }
        exact = answers[reference]
        limit = _TOLERANCE * float(np.abs(exact).max(initial=0.0))
        differing = [
            name
            for name, answer in answers.items()
            if float(np.abs(answer - exact).max(initial=0.0)) > limit
        ]
        same = {name: runner for name, runner in runners.items() if name not in differing}
        return measure(same, inputs, settings=settings), differing
