"""Are times over SSH those of the host itself?

Measures engines here and on a host in turns. Where the host is this machine (an sshd on the
loopback), the medians must agree within what they differ from turn to turn. Run it on a quiet
machine.

    python benchmarks/ssh_latency.py runs/r50/onnxruntime/model.onnx --device ssh://me@127.0.0.1
"""

from __future__ import annotations

import argparse
from pathlib import Path

from edgeres.benchmarking.benchmark import benchmark
from edgeres.benchmarking.latency import MeasureSettings
from edgeres.devices.address import parse_ssh
from edgeres.devices.remote import benchmark_on
from edgeres.system.environment import describe_environment


def main() -> int:
    """Prints the medians of every turn and the ratio of their means."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("engines", type=Path, nargs="+")
    parser.add_argument("--device", required=True)
    parser.add_argument("--known-hosts", type=Path)
    parser.add_argument("--identity", type=Path)
    parser.add_argument("--remote-python", default="python3")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--turns", type=int, default=4)
    options = parser.parse_args()
    host = parse_ssh(
        options.device,
        known_hosts=options.known_hosts,
        identity=options.identity,
        python=options.remote_python,
    )
    machine = describe_environment()
    print(f"{machine.cpu}, {machine.threads} CPUs, {options.threads} threads, p50 in ms")
    for engine in options.engines:
        medians: dict[str, list[float]] = {"here": [], "over SSH": []}
        for _ in range(options.turns):
            settings = MeasureSettings(seconds=options.seconds)
            here = benchmark([engine], threads=options.threads, settings=settings)
            medians["here"].append(here.engines[str(engine)].latency.p50_ms)
            there = benchmark_on(host, [engine], threads=options.threads, seconds=options.seconds)
            medians["over SSH"].append(there["engines"][str(engine)]["latency_ms"]["p50"])
        print(f"{engine.parent.name}/{engine.name}")
        for where, values in medians.items():
            spread = max(values) / min(values) - 1
            told = ", ".join(f"{value:.3f}" for value in values)
            print(f"  {where}: {told} (mean {sum(values) / len(values):.3f}, spread {spread:.1%})")
        ratio = sum(medians["over SSH"]) / sum(medians["here"])
        print(f"  over SSH / here: {ratio:.3f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
