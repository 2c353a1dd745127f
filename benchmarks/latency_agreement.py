"""Do three ways to time an engine agree? `edgeres benchmark`, MLPerf LoadGen and a bare loop.

All use one image a run, the same threads and the same engine. Prints the medians and exits with 1
where one is more than 5 % from the bare loop. Run it on a quiet machine; LoadGen is needed
(`pip install mlcommons-loadgen`).

    python benchmarks/latency_agreement.py runs/default/onnxruntime/model.onnx --threads 1
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np

from edgeres.backends.base import BuildConfig
from edgeres.backends.classifier import single_input
from edgeres.backends.fit import executable_backend
from edgeres.backends.sidecar import read_engine
from edgeres.benchmarking.benchmark import benchmark
from edgeres.benchmarking.inputs import made_up_inputs
from edgeres.benchmarking.latency import MeasureSettings
from edgeres.benchmarking.loadgen import LoadGenSettings, run_loadgen
from edgeres.errors import EdgeResError
from edgeres.system.environment import describe_environment

_TOLERANCE = 0.05


def bare_loop_ms(path: Path, threads: int | None, seconds: float) -> float:
    """Median milliseconds of a loop that does nothing but call the engine."""
    engine = read_engine(path)
    config = BuildConfig(device=engine.device, threads=threads)
    with executable_backend(engine).load(engine, config) as runner:
        source = single_input(runner)
        feeds = [{source.name: images} for images in made_up_inputs(source, 1)]
        for feed in feeds * 5:
            runner.infer(feed)
        times: list[int] = []
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            start = time.perf_counter_ns()
            runner.infer(feeds[len(times) % len(feeds)])
            times.append(time.perf_counter_ns() - start)
    return float(np.median(times)) / 1e6


def main() -> int:
    """Times the engine three ways."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("engine", type=Path)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    try:
        loop = bare_loop_ms(options.engine, options.threads, options.seconds)
        quick = benchmark(
            [options.engine],
            threads=options.threads,
            settings=MeasureSettings(seconds=options.seconds),
        ).engines[str(options.engine)]
        loadgen = run_loadgen(
            options.engine, LoadGenSettings(seconds=options.seconds, threads=options.threads)
        )
    except EdgeResError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    machine = describe_environment()
    print(f"{options.engine} on {machine.cpu}, {machine.threads} CPUs")
    rows = {
        "bare loop": loop,
        "edgeres benchmark": quick.latency.p50_ms,
        "LoadGen single stream": loadgen.percentiles_ms["p50"],
    }
    for name, median in rows.items():
        print(f"{name:24}{median:9.3f} ms {median / loop - 1:+7.1%}")
    for doubt in quick.latency.doubts:
        print(f"unstable: {doubt}")
    if not loadgen.valid:
        print(f"LoadGen: INVALID: {loadgen.reason}")
    agree = all(abs(median / loop - 1) <= _TOLERANCE for median in rows.values())
    return 0 if agree and loadgen.valid else 1


if __name__ == "__main__":
    raise SystemExit(main())
