"""Latency for the gate of ``validate``: measured only where a limit asks for it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgeres.backends import get_backend
from edgeres.backends.base import Engine
from edgeres.backends.isolate import build_isolated
from edgeres.backends.sidecar import sidecar_path
from edgeres.errors import ModelError, StageError, UsageError
from edgeres.evaluation.rebuild_config import built_like
from edgeres.recipe.gates import Limits
from edgeres.system.temporary import temporary_folder

if TYPE_CHECKING:
    from edgeres.benchmarking.latency import Latency


@dataclass(frozen=True)
class MeasuredSpeed:
    """What the gate goes by; ``None`` where it was not asked for.

    Attributes:
        latency: Times of the engine.
        speedup: The yardstick's p50 over the engine's.
        speedup_interval: Two-sided confidence interval of it.
        doubts: What speaks against the times.
        yardstick: Arithmetic of the fastest float engine.
    """

    latency: Latency | None = None
    speedup: float | None = None
    speedup_interval: tuple[float, float] | None = None
    doubts: tuple[str, ...] = ()
    yardstick: str = "fp32"


def measure_speed(
    engine: Engine,
    limits: Limits,
    fp32: Path | None,
    threads: int | None,
    *,
    isolate: bool = False,
) -> MeasuredSpeed:
    """Times and, where a speed-up is asked for, p50 beside float engines' in the same turns.

    Args:
        engine: The engine under test.
        limits: What is asked for.
        fp32: FP32 engine, or ONNX file to build float engines from with the engine's own backend:
            FP32, and what that backend has that may be faster.
        threads: CPU threads; ``None`` leaves the choice to the runtime.
        isolate: Whether to build it in a child process.

    Returns:
        What was measured; empty where no limit asks.

    Raises:
        UsageError: A speed-up is asked for and there is no FP32 engine.
        EdgeResError: As :func:`edgeres.benchmarking.benchmark.benchmark`.
    """
    from edgeres.benchmarking.benchmark import benchmark
    from edgeres.benchmarking.latency import GATE_RUNS, MeasureSettings
    from edgeres.benchmarking.speedup import speedup
    from edgeres.benchmarking.stability import doubts_of_both

    if limits.max_p99_ms is None and limits.min_speedup is None:
        return MeasuredSpeed()
    settings = MeasureSettings(min_runs=GATE_RUNS) if limits.max_p99_ms is not None else None
    if limits.min_speedup is None:
        times = benchmark([engine.path], threads=threads, settings=settings).engines
        return MeasuredSpeed(times[str(engine.path)].latency)
    if fp32 is None or not fp32.is_file():
        raise UsageError(
            "a speed-up was asked for, and no FP32 engine or ONNX file is named to compare with.",
            hint="Give --fp32.",
        )
    with temporary_folder() as folder:
        floats = {"fp32": fp32}
        if not sidecar_path(fp32).is_file():
            floats = _build_floats(engine, fp32, folder, threads, isolate=isolate)
        paths = [*floats.values(), engine.path]
        times = benchmark(paths, threads=threads, settings=settings).engines
    latency = times[str(engine.path)].latency
    before = {name: times[str(path)].latency for name, path in floats.items()}
    yardstick = min(before, key=lambda name: before[name].p50_ms)
    ratio = speedup(before[yardstick], latency)
    return MeasuredSpeed(
        latency=latency,
        speedup=ratio.value,
        speedup_interval=(ratio.low, ratio.high),
        doubts=doubts_of_both(latency.doubts, before[yardstick].doubts, yardstick),
        yardstick=yardstick,
    )


def _build_floats(
    engine: Engine, onnx: Path, folder: Path, threads: int | None, *, isolate: bool
) -> dict[str, Path]:
    """Float engines of an ONNX file by their arithmetic, ``fp32`` first."""
    backend = get_backend(engine.backend)
    reference = built_like(engine, backend, onnx, threads=threads, reference=True)
    floats: dict[str, Path] = {}
    for name, options in {"fp32": {}, **backend.float_builds(engine.device)}.items():
        out = folder / f"{name}{backend.engine_suffix}"
        config = replace(reference, options={**reference.options, **options})
        try:
            if isolate:
                floats[name] = build_isolated(onnx, out, backend.name, config).path
            else:
                floats[name] = backend.build(onnx, out, config).path
        except (ModelError, StageError) as error:
            if name == "fp32":
                raise
            warnings.warn(f"compared with no {name.upper()}: {error.message}", stacklevel=2)
    return floats
