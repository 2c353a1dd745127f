"""A benchmark that may first find the fastest run-time options of each engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgeres.benchmarking.benchmark import ON_CPU, Benchmark, benchmark
from edgeres.benchmarking.latency import MeasureSettings
from edgeres.benchmarking.meters import Meter
from edgeres.benchmarking.runtime_options import Tuning, tune_runtime
from edgeres.system.progress import Listener, bar


@dataclass(frozen=True)
class TunedBenchmark:
    """A benchmark and what was found before it.

    Attributes:
        benchmark: The measurement.
        tunings: What was found for the engines whose run-time options were tried, by path.
    """

    benchmark: Benchmark
    tunings: Mapping[str, Tuning]

    def named(self, names: Mapping[str, str]) -> TunedBenchmark:
        """The same with other names for the engines, by path."""
        engines = {_renamed(path, names): times for path, times in self.benchmark.engines.items()}
        tunings = {names[path]: tuning for path, tuning in self.tunings.items()}
        return TunedBenchmark(replace(self.benchmark, engines=engines), tunings)

    def to_dict(self) -> dict[str, object]:
        """As plain JSON values: each engine's tuning beside its times."""
        content = self.benchmark.to_dict()
        for name, tuning in self.tunings.items():
            content["engines"][name]["tuning"] = tuning.to_dict()
        return content


def _renamed(path: str, names: Mapping[str, str]) -> str:
    """The other name; one on the CPU beside its device stays so."""
    file = path.removesuffix(ON_CPU)
    return names[file] + path.removeprefix(file)


def benchmark_engines(
    paths: Sequence[Path],
    *,
    tune: bool,
    batch_size: int,
    device: str | None,
    threads: int | None,
    settings: MeasureSettings,
    sustained_s: float | None,
    meter: Meter | None,
    listener: Listener,
) -> TunedBenchmark:
    """Measures built engines with their memory; each first runs once in a child process.

    Args:
        paths: Engine files, each with its sidecar beside it.
        tune: Whether to find and keep the fastest run-time options of each before.
        batch_size: As for :func:`edgeres.benchmarking.benchmark.benchmark`, like the others.
        device: Likewise.
        threads: Likewise.
        settings: Likewise.
        sustained_s: Likewise.
        meter: Likewise.
        listener: Hears of progress.

    Raises:
        EdgeResError: As the benchmark and
            :func:`edgeres.benchmarking.runtime_options.tune_runtime`.
    """
    tunings = {
        str(path): tune_runtime(
            path, batch_size=batch_size, isolate=True, progress=bar(listener, f"tune {path.name}")
        )
        for path in (paths if tune else ())
    }
    result = benchmark(
        paths,
        batch_size=batch_size,
        device=device,
        threads=threads,
        settings=settings,
        memory=True,
        cpu_beside=True,
        sustained_s=sustained_s,
        meter=meter,
        isolate=True,
        progress=bar(listener, "benchmark"),
    )
    return TunedBenchmark(result, tunings)
