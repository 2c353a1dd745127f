"""Time and memory of learned rounding and of the sensitivity of every layer, of two edgeres.

    python benchmarks/search_speed.py WORK --against OTHER_CHECKOUT --out FILE

ResNet-50 with random weights (`subjects.py`) and its photographs. Each version runs in a process of
its own, in turns, on the same file and images, with a calibration of its own that is not counted.
Seconds are of the whole call; CPU seconds do not count what others do on the machine meanwhile.
`gain_db` is how much the squared output error of the layers fell on the images, on average;
`sqnr_db` is of the simulated logits on images that were not seen.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from subjects import Subject, open_subject

CALIBRATION_IMAGES, TEST_IMAGES = 32, 16


def images_of(subject: Subject, which: str, count: int) -> NDArray[np.float32]:
    """``(N, 3, 224, 224) float32``."""
    return np.concatenate(list(subject.batches(which, 8, count)))


def learned(subject: Subject, images: int) -> dict[str, float]:
    """Quantizes with learned rounding for a CPU whose sums saturate."""
    from edgeres.backends import get_backend
    from edgeres.quantization import quantize as stage
    from edgeres.quantization.calibrate import calibrate
    from edgeres.quantization.simulate import simulated_logits
    from edgeres.sqnr import sqnr_db

    table = calibrate(subject.fp32, subject.batches("calibration", 2, CALIBRATION_IMAGES))
    rules = replace(get_backend("onnxruntime").qdq_rules("cpu"), saturating=True)
    seen = images_of(subject, "calibration", images)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "qdq.onnx"
        began, began_cpu = time.monotonic(), time.process_time()
        settings = vars(stage)["QuantizeSettings"](rounding="learned")  # wherever a version has it
        result = stage.quantize(subject.fp32, table, rules, out, settings, images=seen)
        seconds, cpu = time.monotonic() - began, time.process_time() - began_cpu
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        test = images_of(subject, "test", TEST_IMAGES)
        wanted, got = (simulated_logits(file, [test]) for file in (subject.fp32, out))
    return {
        "seconds": seconds,
        "cpu_seconds": cpu,
        "peak_rss_mib": peak,
        "gain_db": float(np.mean(list(result.rounding_gain_db.values()))),
        "sqnr_db": sqnr_db(wanted, got),
    }


def each_layer(subject: Subject, images: int) -> dict[str, float]:
    """Sensitivity of every node, alone and all but it."""
    from edgeres.backends import get_backend
    from edgeres.quantization.calibrate import calibrate
    from edgeres.quantization.sensitivity import sensitivity

    table = calibrate(subject.fp32, subject.batches("calibration", 2, CALIBRATION_IMAGES))
    rules = replace(get_backend("onnxruntime").qdq_rules("cpu"), saturating=True)
    shown = images_of(subject, "test", images)
    began, began_cpu = time.monotonic(), time.process_time()
    found = sensitivity(subject.fp32, table, rules, shown, all_but=True)
    return {
        "seconds": time.monotonic() - began,
        "cpu_seconds": time.process_time() - began_cpu,
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "nodes": len(found.nodes),
        # Of all figures, so that two versions can be seen to give the same.
        "sum_db": sum(
            n.only.sqnr_db + (n.all_but.sqnr_db if n.all_but else 0) for n in found.nodes
        ),
    }


JOBS = {"learned": learned, "sensitivity": each_layer}


def measured(job: str, images: int, subject: Subject, checkout: Path) -> dict[str, Any]:
    """Runs one job in a process that imports the edgeres of a checkout."""
    command = [sys.executable, __file__, subject.folder, "--job", job, "--images", str(images)]
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": str(checkout)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def main() -> None:
    """Measures both versions, or (as a child) one job of one."""
    parser = argparse.ArgumentParser(description="Times learned rounding and sensitivity.")
    parser.add_argument("work", type=Path)
    parser.add_argument("--against", type=Path, help="a checkout of another version")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--job", choices=JOBS)
    parser.add_argument("--only", choices=JOBS)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.job:
        subject = Subject(**json.loads((arguments.work / "subject.json").read_text()))
        print(json.dumps(JOBS[arguments.job](subject, arguments.images)))
        return
    from edgeres.system.environment import describe_environment

    subject = open_subject("resnet50", arguments.work)
    versions = {"this": Path(__file__).parents[1]}
    if arguments.against is not None:
        versions = {"before": arguments.against} | versions
    told: dict[str, Any] = {
        "environment": describe_environment(("numpy", "onnxruntime")).to_dict(),
        "images": arguments.images,
    }
    for job in [arguments.only] if arguments.only else JOBS:
        told[job] = {}
        for name, checkout in versions.items():
            told[job][name] = measured(job, arguments.images, subject, checkout)
            print(job, name, told[job][name], flush=True)
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(told, indent=2) + "\n")


if __name__ == "__main__":
    main()
