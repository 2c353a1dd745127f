"""CPU time and memory of learned rounding and of the sensitivity of layers, of two edgeres.

    python benchmarks/search_speed.py WORK --against OTHER_CHECKOUT --out FILE

Learned rounding of the trained ResNet-50, sensitivity of the trained ResNet-18 (`subjects.py`),
each layer alone and all but it. Where an older version takes too long for whole networks, `--nodes`
of the nodes are INT8 and the others stay float: for sensitivity evenly spaced over the network, for
learned rounding evenly spaced over the layers in the order of their size, the largest among them.
What is done once for all, such as reading the file, then counts for more than it would with all of
them. Each version runs in a process of its own, in turns, on the same file and images, with a
calibration of its own that is not counted, neither in time nor in memory.

Seconds are of the whole call. Both versions run on one CPU, where the CPU seconds say how much work
there is, whatever else the machine does; and on all, where the seconds say how long a person waits,
if nothing else runs: threads of the older version mostly wait for one another.
`load` is how many processes wanted to run in the minute before.
`gain_db` is how much the squared output error of the layers fell on the images, on average;
`sqnr_db` is of the simulated logits on images that were not seen; `sum_db` of all figures of the
sensitivity, so that two versions can be seen to give the same.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from subjects import Subject, open_subject

CALIBRATION_IMAGES, TEST_IMAGES = 8, 16


def images_of(subject: Subject, which: str, count: int) -> NDArray[np.float32]:
    """``(N, 3, 224, 224) float32``."""
    return np.concatenate(list(subject.batches(which, 8, count)))


def spaced(rules: Any, placed: Any, names: Sequence[str], count: int) -> Any:
    """The rules with so many of these nodes in INT8 and all others float; 0 leaves all INT8."""
    if not count:
        return rules
    chosen = {names[index * len(names) // count] for index in range(count)}
    return replace(rules, keep_float=frozenset(placed.quantized_nodes) - chosen)


def forget_peak() -> None:
    """Lets the peak of this process begin anew (Linux, `proc_pid_clear_refs(5)`)."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_mib() -> float:
    """Most memory of this process since then."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


# What edgeres offers is taken from the module that uses it, wherever a version has it.
def learned(subject: Subject, images: int, nodes: int) -> dict[str, float]:
    """Quantizes with learned rounding for a CPU whose sums saturate."""
    from edgeres.backends import get_backend
    from edgeres.quantization import quantize as stage
    from edgeres.quantization.calibrate import calibrate
    from edgeres.quantization.placement import place
    from edgeres.quantization.simulate import simulated_logits
    from edgeres.sqnr import sqnr_db

    table = calibrate(subject.fp32, subject.batches("calibration", 2, CALIBRATION_IMAGES))
    rules = replace(get_backend("onnxruntime").qdq_rules("cpu"), saturating=True)
    placed = place(vars(stage)["load_model"](subject.fp32).graph, rules)
    by_size = sorted(placed.layers, key=lambda layer: -layer.weight.size)
    rules = spaced(rules, placed, [layer.name for layer in by_size], nodes)
    seen = images_of(subject, "calibration", images)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "qdq.onnx"
        forget_peak()
        began, began_cpu = time.monotonic(), time.process_time()
        settings = vars(stage)["QuantizeSettings"](rounding="learned")
        result = stage.quantize(subject.fp32, table, rules, out, settings, images=seen)
        seconds, cpu = time.monotonic() - began, time.process_time() - began_cpu
        peak = peak_mib()
        test = images_of(subject, "test", TEST_IMAGES)
        wanted, got = (simulated_logits(file, [test]) for file in (subject.fp32, out))
    return {
        "seconds": seconds,
        "cpu_seconds": cpu,
        "peak_rss_mib": peak,
        "layers": len(result.rounding_gain_db),
        "gain_db": float(np.mean(list(result.rounding_gain_db.values()))),
        "sqnr_db": sqnr_db(wanted, got),
    }


def each_layer(subject: Subject, images: int, nodes: int) -> dict[str, float]:
    """Sensitivity of some nodes, alone and all but it."""
    from edgeres.backends import get_backend
    from edgeres.quantization import quantize as stage
    from edgeres.quantization.calibrate import calibrate
    from edgeres.quantization.placement import place
    from edgeres.quantization.sensitivity import sensitivity

    table = calibrate(subject.fp32, subject.batches("calibration", 2, CALIBRATION_IMAGES))
    rules = replace(get_backend("onnxruntime").qdq_rules("cpu"), saturating=True)
    placed = place(vars(stage)["load_model"](subject.fp32).graph, rules)
    rules = spaced(rules, placed, placed.quantized_nodes, nodes)
    shown = images_of(subject, "test", images)
    forget_peak()
    began, began_cpu = time.monotonic(), time.process_time()
    found = sensitivity(subject.fp32, table, rules, shown, all_but=True)
    return {
        "seconds": time.monotonic() - began,
        "cpu_seconds": time.process_time() - began_cpu,
        "peak_rss_mib": peak_mib(),
        "nodes": len(found.nodes),
        "sum_db": sum(
            n.only.sqnr_db + (n.all_but.sqnr_db if n.all_but else 0) for n in found.nodes
        ),
    }


JOBS = {"learned": learned, "sensitivity": each_layer}
SUBJECTS = {"learned": "resnet50", "sensitivity": "resnet18"}


def measured(
    job: str, subject: Subject, checkout: Path, asked: argparse.Namespace, count: int
) -> Any:
    """Runs one job in a process that imports the edgeres of a checkout, on so many CPUs."""
    command = [sys.executable, __file__, subject.folder, "--job", job]
    command += ["--images", str(asked.images), "--nodes", str(asked.nodes)]
    load = os.getloadavg()[0]
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": str(checkout)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        preexec_fn=lambda: os.sched_setaffinity(0, cpus(count)),
    )
    return json.loads(done.stdout.splitlines()[-1]) | {"load": load}


def cpus(count: int) -> set[int]:
    """The first so many of those that this process may use."""
    return set(sorted(os.sched_getaffinity(0))[:count])


def main() -> None:
    """Measures both versions, or (as a child) one job of one."""
    parser = argparse.ArgumentParser(description="Times learned rounding and sensitivity.")
    parser.add_argument("work", type=Path)
    parser.add_argument("--against", type=Path, help="a checkout of another version")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--nodes", type=int, default=0, help="in INT8; 0 takes all")
    parser.add_argument("--rounds", type=int, default=1, help="of this version, for the median")
    parser.add_argument("--job", choices=JOBS)
    parser.add_argument("--only", choices=JOBS)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.job:
        subject = Subject(**json.loads((arguments.work / "subject.json").read_text()))
        print(json.dumps(JOBS[arguments.job](subject, arguments.images, arguments.nodes)))
        return
    from edgeres.system.environment import describe_environment

    versions = {"this": Path(__file__).parents[1]}
    if arguments.against is not None:
        versions = {"before": arguments.against} | versions
    told: dict[str, Any] = {}
    if arguments.out is not None and arguments.out.exists():
        told = json.loads(arguments.out.read_text())  # with --only, the other job stays
    told |= {
        "environment": describe_environment(("numpy", "onnxruntime")).to_dict(),
        "before": None if arguments.against is None else commit(arguments.against),
        "images": arguments.images,
    }
    for job in [arguments.only] if arguments.only else JOBS:
        subject = open_subject(SUBJECTS[job], arguments.work)
        told[job] = {"network": SUBJECTS[job]}
        for count in sorted({1, len(os.sched_getaffinity(0))}):
            runs = told[job][f"cpus_{count}"] = {}
            for name, checkout in versions.items():
                times = arguments.rounds if name == "this" else 1
                found = [measured(job, subject, checkout, arguments, count) for _ in range(times)]
                found.sort(key=lambda run: float(run["seconds"]))
                runs[name] = found[times // 2] | {"all_seconds": [run["seconds"] for run in found]}
                print(job, count, name, runs[name], flush=True)
            if "before" in runs:
                of = "cpu_seconds" if count == 1 else "seconds"
                runs["times_faster"] = runs["before"][of] / runs["this"][of]
            if arguments.out is not None:
                arguments.out.write_text(json.dumps(told, indent=2) + "\n")


def commit(checkout: Path) -> str:
    """Of a checkout, short."""
    command = ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()
