"""Throughput of one OpenVINO engine: edgeres' offline scenario beside OpenVINO's benchmark_app.

    python benchmarks/throughput.py ENGINE.xml --out benchmarks/results/throughput.json

Both run the same file with the same arithmetic on all cores, in turns; told is the ratio within
each turn, its median and the smallest and largest. ``benchmark_app -hint throughput`` chooses its
streams and requests by itself, and so does ``edgeres benchmark --scenario offline``. Needs
``pip install "edgeres[loadgen]"``; ``benchmark_app`` comes with OpenVINO.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from edgeres.backends.sidecar import read_engine
from edgeres.benchmarking.loadgen import LoadGenSettings, run_loadgen
from edgeres.graph.summary import TensorSpec


def theirs(engine: Path, shape: str, seconds: float) -> float:
    """Samples a second by benchmark_app."""
    command = [str(Path(sys.executable).with_name("benchmark_app")), "-m", str(engine)]
    command += ["-hint", "throughput", "-infer_precision", "f32", "-shape", shape]
    done = subprocess.run(
        [*command, "-t", f"{seconds:.0f}"], capture_output=True, text=True, check=True
    )
    found = re.search(r"Throughput:\s+([\d.]+) FPS", done.stdout)
    if found is None:
        raise RuntimeError(f"benchmark_app says no throughput:\n{done.stdout[-1000:]}")
    return float(found[1])


def measure(engine: Path, turns: int, seconds: float) -> dict[str, Any]:
    """Both, in turns."""
    source = _input_of(engine)
    shape = "[" + ",".join("1" if size is None else str(size) for size in source.shape) + "]"
    ours_all, theirs_all, lanes = [], [], []
    for _ in range(turns):
        found = run_loadgen(engine, LoadGenSettings(scenario="offline", seconds=seconds))
        assert found.samples_per_s is not None
        ours_all.append(found.samples_per_s)
        lanes.append(found.lanes)
        theirs_all.append(theirs(engine, shape, seconds))
    ratios = sorted(a / b for a, b in zip(ours_all, theirs_all, strict=True))
    return {
        "engine": engine.name,
        "edgeres_samples_per_s": ours_all,
        "edgeres_lanes": lanes,
        "benchmark_app_samples_per_s": theirs_all,
        "ratio": [ratios[0], statistics.median(ratios), ratios[-1]],
    }


def _input_of(engine: Path) -> TensorSpec:
    from edgeres.backends.base import BuildConfig
    from edgeres.backends.classifier import single_input
    from edgeres.backends.fit import executable_backend

    built = read_engine(engine)
    with executable_backend(built).load(built, BuildConfig(device=built.device)) as runner:
        return single_input(runner)


def main() -> None:
    """Measures, prints and stores."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("engine", type=Path)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    from edgeres.system.environment import describe_environment

    result = {
        "environment": describe_environment().to_dict(),
        **measure(arguments.engine, arguments.turns, arguments.seconds),
    }
    text = json.dumps(result, indent=1)
    if arguments.out:
        arguments.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
