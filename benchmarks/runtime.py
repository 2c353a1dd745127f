"""The torch-free runtime, measured: start-up and overhead over the bare engine.

    python benchmarks/runtime.py prepare /tmp/resnet50      # once: convert and bundle a ResNet-50
    python benchmarks/runtime.py measure /tmp/resnet50 --out benchmarks/results/runtime.json

The network is ResNet-50 as torchvision defines it, with random weights and ten classes: times do
not depend on the weights' values. "Bare" is the same loaded engine called through its vendor's own
Python API, in turns with the session. Start-up is measured in fresh processes: what the session
takes from the first import until it is ready, less what importing the runtime and loading the
engine take in a process that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import edgeres

SIZE, CLASSES, IMAGES = 224, 10, 32
TARGETS = ("onnxruntime", "openvino")
STARTS = 7

_SESSION = """
import time; start = time.perf_counter()
import edgeres
session = edgeres.Session({bundle!r}, target={target!r}, threads={threads}, self_test={test})
print(time.perf_counter() - start)
session.close()
"""


def prepare(folder: Path) -> None:
    """Converts a ResNet-50 with random weights and bundles it."""
    import torch

    from edgeres.models.build import build_model
    from edgeres.models.plan import plan_for

    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    network = build_model(plan_for("resnet50", num_classes=CLASSES))
    torch.save(network.state_dict(), folder / "resnet50.pth")
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (IMAGES, 14, 14, 3), dtype=np.uint8)
    np.savez(
        folder / "images.npz",
        images=coarse.repeat(16, axis=1).repeat(16, axis=2),
        labels=np.arange(IMAGES) % CLASSES,
    )
    (folder / "recipe.yaml").write_text(
        "name: resnet50\n"
        "model: {source: resnet50.pth, num_classes: 10}\n"
        "preprocess: {mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}\n"
        "data: {validation: 'npz:images.npz', calibration: 'npz:images.npz',"
        " calibration_samples: 16}\n"
        f"targets: [{', '.join(TARGETS)}]\n"
        "quantize: {bias_correction: false}\n"
        "gates: {untrained: true, max_drop: 100}\n"
        "benchmark: {seconds: 0.2}\n"
    )
    edgeres.convert(edgeres.load_recipe(folder / "recipe.yaml"), folder / "out")
    edgeres.bundle(folder / "out", folder / "resnet50.edgeres")


def measure(folder: Path, threads: int, runs: int) -> dict[str, Any]:
    """All figures for every target."""
    from edgeres.system.environment import describe_environment

    return {
        "environment": describe_environment().to_dict(),
        "threads": threads,
        "network": "resnet50, 224x224, INT8",
        "targets": {target: _measure(folder, target, threads, runs) for target in TARGETS},
    }


def _measure(folder: Path, target: str, threads: int, runs: int) -> dict[str, Any]:
    bundle = folder / "resnet50.edgeres"
    return {
        "start_up_s": _start_up(folder, bundle, target, threads),
        **_calls(bundle, target, threads, runs),
    }


def _start_up(folder: Path, bundle: Path, target: str, threads: int) -> dict[str, float]:
    """Medians over fresh processes, which take turns."""
    report = json.loads((folder / "out" / "report.json").read_text())
    engine = str(folder / "out" / report["targets"][target]["engine"])
    codes = {
        "session": _SESSION.format(bundle=str(bundle), target=target, threads=threads, test=True),
        "without_self_test": _SESSION.format(
            bundle=str(bundle), target=target, threads=threads, test=False
        ),
        "bare": _bare_code(target, engine, threads),
    }
    times: dict[str, list[float]] = {name: [] for name in codes}
    for _ in range(STARTS):
        for name, code in codes.items():
            done = subprocess.run(
                [sys.executable, "-c", code], capture_output=True, text=True, check=True
            )
            times[name].append(float(done.stdout))
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        **medians,
        "own": medians["session"] - medians["bare"],
        "own_without_self_test": medians["without_self_test"] - medians["bare"],
    }


def _bare_code(target: str, engine: str, threads: int) -> str:
    """Imports the runtime and loads the engine with the vendor's API alone."""
    if target == "onnxruntime":
        load = (
            "import onnxruntime as ort; options = ort.SessionOptions()\n"
            f"options.intra_op_num_threads = {threads}\n"
            f"ort.InferenceSession({engine!r}, options, providers=['CPUExecutionProvider'])\n"
        )
    else:
        load = (
            "import openvino as ov; core = ov.Core(); model = core.read_model("
            f"{engine!r})\nmodel.reshape([1, 3, {SIZE}, {SIZE}])\n"
            f"settings = {{'INFERENCE_NUM_THREADS': {threads}, 'PERFORMANCE_HINT': 'LATENCY'}}\n"
            "core.compile_model(model, 'CPU', settings).create_infer_request()\n"
        )
    return f"import time; start = time.perf_counter()\n{load}print(time.perf_counter() - start)"


def _calls(bundle: Path, target: str, threads: int, runs: int) -> dict[str, Any]:
    """Session and vendor API on the same loaded engine, in turns."""
    rng = np.random.default_rng(1)
    images = [rng.standard_normal((1, 3, SIZE, SIZE)).astype(np.float32) for _ in range(4)]
    with edgeres.Session(bundle, target=target, threads=threads) as session:
        bare = _vendor_call(session, target)
        for image in images:
            np.testing.assert_array_equal(session.infer(image), bare(image))
        times: dict[str, list[float]] = {"session": [], "bare": []}
        calls: dict[str, Callable[[Any], Any]] = {"session": session.infer, "bare": bare}
        for turn in range(runs):
            order = list(calls) if turn % 2 else list(calls)[::-1]
            for name in order:
                start = time.perf_counter()
                calls[name](images[turn % 4])
                times[name].append(time.perf_counter() - start)
    difference = [a - b for a, b in zip(times["session"], times["bare"], strict=True)]
    bare_ms = 1e3 * statistics.median(times["bare"])
    low, high = _median_interval(difference)
    return {
        "runs": runs,
        "bare_ms": bare_ms,
        "session_ms": 1e3 * statistics.median(times["session"]),
        "overhead_percent": 1e5 * statistics.median(difference) / bare_ms,
        "overhead_percent_95": [1e5 * low / bare_ms, 1e5 * high / bare_ms],
    }


def _vendor_call(session: edgeres.Session, target: str) -> Callable[[Any], Any]:
    """The vendor's own call on the engine that the session holds."""
    runner: Any = session._runners[0]
    name = session.input.name
    if target == "onnxruntime":
        vendor = runner._session
        return lambda image: vendor.run(None, {name: image})[0]
    import openvino

    runner.infer({name: np.zeros((1, 3, SIZE, SIZE), np.float32)})
    request = next(reversed(runner._requests.values()))

    def call(image: Any) -> Any:
        request.set_input_tensor(0, openvino.Tensor(image, shared_memory=True))
        request.infer(share_outputs=True)
        return request.get_output_tensor(0).data.copy()

    return call


def _median_interval(values: list[float]) -> tuple[float, float]:
    """95 % interval of the median from order statistics (binomial, normal approximation)."""
    ordered = sorted(values)
    half = 0.98 * len(ordered) ** 0.5
    middle = len(ordered) / 2
    last = len(ordered) - 1
    return ordered[max(0, int(middle - half))], ordered[min(last, int(middle + half))]


def main() -> None:
    """Parses arguments and runs one of the two steps."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("step", choices=("prepare", "measure"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=400)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.step == "prepare":
        prepare(arguments.folder)
        return
    found = json.dumps(measure(arguments.folder, arguments.threads, arguments.runs), indent=1)
    print(found)
    if arguments.out:
        arguments.out.write_text(found + "\n")


if __name__ == "__main__":
    main()
