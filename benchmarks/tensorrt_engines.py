r"""TensorRT on the GPU that is here: FP32, FP16 and INT8 of one network, at several batch sizes.

Builds three engines from a network's FP32 and Q/DQ ONNX files, lets them take turns, and prints a
table; ``--out FILE`` keeps the numbers with the GPU, its clocks and the versions. Accuracy is
``edgeres validate``'s business. Not yet run on a GPU: its test drives it with stand-ins.

    edgeres convert recipes/tensorrt.yaml --output runs/trt
    python benchmarks/tensorrt_engines.py runs/trt/baseline/model.onnx \
        runs/trt/tensorrt/model.qdq.onnx --out benchmarks/results/tensorrt_engines.json
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeres.backends._tensorrt_cuda import list_gpus
from edgeres.backends.base import BuildConfig, Engine
from edgeres.backends.tensorrt import BACKEND
from edgeres.benchmarking.latency import MeasureSettings, measure
from edgeres.environment import describe_environment
from edgeres.errors import EdgeResError
from edgeres.evaluation.coverage import int8_coverage
from edgeres.onnx_info import node_macs

_CLOCKS = "clocks.sm,clocks.mem,clocks.max.sm,power.limit,temperature.gpu"


def build_engines(
    fp32: Path, qdq: Path, folder: Path, options: dict[str, str], device: str
) -> dict[str, Engine]:
    """An FP32, an FP16 and an INT8 engine; INT8 with the rest as the backend chooses it."""
    engines = {}
    for name, onnx, more in (
        ("fp32", fp32, {"rest": "float32"}),
        ("fp16", fp32, {"rest": "float16"}),
        ("int8", qdq, {}),
    ):
        config = BuildConfig(device, options=more | options)
        engines[name] = BACKEND.build(onnx, folder / f"{name}.plan", config)
    return engines


def random_images(shape: tuple[int | None, ...], batch: int, count: int) -> list[NDArray[Any]]:
    """Different batches of noise, ``(batch, C, H, W) float32``."""
    random = np.random.default_rng(0)
    sizes = [batch, *(size or 1 for size in shape[1:])]
    return [random.standard_normal(sizes).astype(np.float32) for _ in range(count)]


def time_batch(
    engines: dict[str, Engine], batch: int, config: BuildConfig, settings: MeasureSettings
) -> dict[str, dict[str, Any]]:
    """Latency of each engine at one batch size, with the time on the device alone beside it."""
    with ExitStack() as stack:
        runners = {
            name: stack.enter_context(BACKEND.load(engine, config))
            for name, engine in engines.items()
        }
        shape = next(iter(runners.values())).inputs[0].shape
        inputs = random_images(shape, batch, 4)
        measured = measure(runners, inputs, settings=settings)
        results = {}
        for name, runner in runners.items():
            device_ms = []
            for images in inputs * 8:
                runner.infer({runner.inputs[0].name: images})
                device_ms.append(runner.device_ms)
            results[name] = measured[name].to_dict() | {"device_ms": float(np.median(device_ms))}
    return results


def clocks() -> str:
    """What nvidia-smi says about clocks, power and temperature; empty without it."""
    command = ["nvidia-smi", f"--query-gpu={_CLOCKS}", "--format=csv"]
    try:
        return subprocess.run(command, capture_output=True, check=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("fp32", type=Path, help="FP32 ONNX file")
    parser.add_argument("qdq", type=Path, help="Q/DQ ONNX file of the same network")
    parser.add_argument("--batches", default="1,8,32,64", help="batch sizes, with commas")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--flavor", choices=["tensorrt", "tensorrt_rtx"])
    parser.add_argument("--cuda-graph", action="store_true")
    parser.add_argument("--seconds", type=float, default=4.0, help="for each engine and batch")
    parser.add_argument("--out", type=Path, help="where the numbers go")
    given = parser.parse_args(arguments)
    batches = [int(size) for size in given.batches.split(",")]
    try:
        report = run(given, batches)
    except EdgeResError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(f"{report['gpu'][0]['name']}, {report['title']}, INT8 coverage {report['coverage']:.3f}")
    print("batch  engine      p50       p90       p99    device  images/s")
    for batch, results in report["batches"].items():
        for name, result in results.items():
            times = [result["latency_ms"][key] for key in ("p50", "p90", "p99")]
            row = "".join(f"{value:10.3f}" for value in (*times, result["device_ms"]))
            doubt = "" if result["stable"] else "  (unstable)"
            print(f"{batch:>5}  {name:<6}{row}{result['throughput_per_s']:10.0f}{doubt}")
    if given.out is not None:
        given.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


def run(given: argparse.Namespace, batches: list[int]) -> dict[str, Any]:
    """Builds and measures; see ``main`` for the arguments."""
    options = {"max_batch": str(max(batches))}
    if given.flavor:
        options["flavor"] = given.flavor
    loading = {"cuda_graph": "true"} if given.cuda_graph else {}
    settings = MeasureSettings(seconds=given.seconds)
    with tempfile.TemporaryDirectory() as name:
        engines = build_engines(given.fp32, given.qdq, Path(name), options, given.device)
        int8 = engines["int8"]
        coverage = int8_coverage(node_macs(given.fp32), BACKEND.layers(int8))
        before = clocks()
        results = {
            str(batch): time_batch(
                engines, batch, BuildConfig(given.device, options=loading), settings
            )
            for batch in batches
        }
    return {
        "title": f"{int8.versions['flavor']} {int8.versions[int8.versions['flavor']]}",
        "versions": {name: dict(engine.versions) for name, engine in engines.items()},
        "gpu": [asdict(gpu) for gpu in list_gpus()],
        "clocks": [before, clocks()],
        "environment": describe_environment().to_dict(),
        "coverage": coverage.int8_coverage,
        "batches": results,
    }


if __name__ == "__main__":
    raise SystemExit(main())
