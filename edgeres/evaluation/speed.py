"""Latency for the gate of ``validate``: measured only where a limit asks for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeres.backends import get_backend
from edgeres.backends.base import Engine
from edgeres.backends.isolate import build_isolated
from edgeres.backends.sidecar import sidecar_path
from edgeres.errors import UsageError
from edgeres.evaluation.rebuild_config import built_like
from edgeres.recipe.checks import Limits
from edgeres.system.temporary import temporary_folder

if TYPE_CHECKING:
    from edgeres.benchmarking.latency import Latency


@dataclass(frozen=True)
class MeasuredSpeed:
    """What the gate goes by; ``None`` where it was not asked for.

    Attributes:
        latency: Times of the engine.
        speedup: FP32 p50 over the engine's.
        speedup_interval: Two-sided confidence interval of it.
        doubts: What speaks against the times.
    """

    latency: Latency | None = None
    speedup: float | None = None
    speedup_interval: tuple[float, float] | None = None
    doubts: tuple[str, ...] = ()


def measure_speed(
    engine: Engine,
    limits: Limits,
    fp32: Path | None,
    threads: int | None,
    *,
    isolate: bool = False,
) -> MeasuredSpeed:
    """Times and, where a speed-up is asked for, p50 beside the FP32 engine's in the same turns.

    Args:
        engine: The engine under test.
        limits: What is asked for.
        fp32: FP32 engine, or ONNX file to build one from with the engine's own backend.
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
        yardstick = fp32
        if not sidecar_path(fp32).is_file():
            backend = get_backend(engine.backend)
            out = folder / f"fp32{backend.engine_suffix}"
            config = built_like(engine, backend, fp32, threads=threads, reference=True)
            if isolate:
                yardstick = build_isolated(fp32, out, backend.name, config).path
            else:
                yardstick = backend.build(fp32, out, config).path
        times = benchmark([yardstick, engine.path], threads=threads, settings=settings).engines
    before, after = times[str(yardstick)], times[str(engine.path)]
    assert after.speedup is not None
    return MeasuredSpeed(
        latency=after.latency,
        speedup=after.speedup.value,
        speedup_interval=(after.speedup.low, after.speedup.high),
        doubts=doubts_of_both(after.latency.doubts, before.latency.doubts),
    )
