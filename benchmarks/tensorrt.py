r"""TensorRT on the GPU that is here, in one command: speed and accuracy of FP32, FP16 and INT8.

Makes the reference network's files with `edgeres convert` if they are not there, builds three
engines, puts torch (eager and compiled, FP32) beside them, lets them take turns at several batch
sizes, and answers the validation images with each. ``--out FILE`` keeps all numbers with the GPU,
its clocks and the versions. Whatever this machine cannot do is said, kept under ``not_done``, and
makes the exit code 4. Its TensorRT part has not run on a GPU yet: a test drives it with stand-ins.

    python benchmarks/tensorrt.py --out benchmarks/results/tensorrt.json
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from edgeres.backends.base import BuildConfig, Engine, Runner
from edgeres.backends.classifier import single_input
from edgeres.backends.tensorrt.backend import BACKEND
from edgeres.backends.tensorrt.gpus import list_gpus
from edgeres.backends.tensorrt.run import TensorRTRunner
from edgeres.benchmarking.inputs import made_up_inputs
from edgeres.benchmarking.latency import MeasureSettings, measure
from edgeres.data.preprocess import Preprocess
from edgeres.data.source import open_dataset
from edgeres.errors import BackendMissingError, EdgeResError
from edgeres.evaluation.coverage import int8_coverage
from edgeres.evaluation.predict import predict
from edgeres.graph.summary import node_macs
from edgeres.system.assets import asset_path
from edgeres.system.environment import describe_environment

_CLOCKS = "clocks.sm,clocks.mem,clocks.max.sm,power.limit,temperature.gpu,driver_version"
_CHECKPOINT = "checkpoints/fmnist_resnet20.safetensors"


def convert_if_absent(folder: Path) -> tuple[Path, Path]:
    """FP32 and Q/DQ ONNX files of a run of ``edgeres convert``, which is made if need be."""
    fp32, qdq = folder / "baseline" / "model.onnx", folder / "tensorrt" / "model.qdq.onnx"
    if not (fp32.is_file() and qdq.is_file()):
        from edgeres.pipeline.convert import convert
        from edgeres.pipeline.recipe_file import load_recipe

        print(f"making {folder} with `edgeres convert tensorrt` ...", file=sys.stderr)
        convert(load_recipe("tensorrt"), folder)
    return fp32, qdq


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


def torch_runners(checkpoint: Path, device: str) -> dict[str, Runner]:
    """The network in torch, FP32: eager, and compiled anew for each batch size.

    Raises:
        BackendMissingError: Torch is not here or does not see the device.
    """
    from edgeres.backends.pytorch.backend import BACKEND as PYTORCH
    from edgeres.backends.pytorch.backend import PyTorchRunner
    from edgeres.models.checkpoint import load_checkpoint, load_module

    PYTORCH.check(BuildConfig(device))
    import torch

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # FP32 is FP32
    loaded = load_checkpoint(checkpoint)
    module = load_module(loaded).to(device)
    sizes = ((None, loaded.plan.in_channels, None, None), loaded.plan.num_classes, device)
    compiled = torch.compile(module, dynamic=False)
    return {
        "torch-eager": PyTorchRunner(module, *sizes),
        "torch-compile": PyTorchRunner(compiled, *sizes),
    }


@contextmanager
def contestants(
    given: argparse.Namespace, engines: Mapping[str, Engine], not_done: list[str]
) -> Iterator[dict[str, Runner]]:
    """All that can run here; what cannot is noted."""
    options = {"cuda_graph": "true"} if given.cuda_graph else {}
    with ExitStack() as stack:
        runners: dict[str, Runner] = {}
        try:
            for name, engine in engines.items():
                config = BuildConfig(given.device, options=options)
                runners[name] = stack.enter_context(BACKEND.load(engine, config))
        except BackendMissingError as error:
            runners = {}
            not_done.append(f"TensorRT engines were not run: {error}")
        if "torch" not in given.skip:
            try:
                made = torch_runners(given.checkpoint, given.torch_device or given.device)
                runners |= {name: stack.enter_context(runner) for name, runner in made.items()}
            except BackendMissingError as error:
                not_done.append(f"torch was not run: {error}")
        yield runners


def time_batch(
    runners: dict[str, Runner], batch: int, shape: Runner, settings: MeasureSettings
) -> dict[str, dict[str, Any]]:
    """Latency at one batch size, and for TensorRT the time on the device alone beside it."""
    inputs = made_up_inputs(single_input(shape), batch, count=4)
    measured = measure(runners, inputs, settings=settings)
    results = {}
    for name, runner in runners.items():
        results[name] = measured[name].to_dict()
        if isinstance(runner, TensorRTRunner):
            device_ms = []
            for images in inputs * 8:
                runner.infer({runner.inputs[0].name: images})
                device_ms.append(runner.device_ms)
            results[name]["device_ms"] = float(np.median(device_ms))
    return results


def accuracy(runners: Mapping[str, Runner], given: argparse.Namespace) -> dict[str, float]:
    """Top-1 of each on the first images of the validation set."""
    kept = given.run / "baseline" / "preprocess.json"
    preprocess = Preprocess.from_dict(json.loads(kept.read_text(encoding="utf-8")))
    dataset = open_dataset(given.data, split="validation")
    if given.samples is not None:
        dataset = dataset.subset(range(min(given.samples, len(dataset))))
    return {
        name: float(predict(runner, dataset, preprocess, name=name).correct.mean())
        for name, runner in runners.items()
    }


def clocks() -> str:
    """What nvidia-smi says about clocks, power and temperature; empty without it."""
    command = ["nvidia-smi", f"--query-gpu={_CLOCKS}", "--format=csv"]
    try:
        return subprocess.run(command, capture_output=True, check=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def run(given: argparse.Namespace, batches: list[int]) -> dict[str, Any]:
    """Builds and measures; see ``main`` for the arguments."""
    options = {"max_batch": str(max(64, *batches))}
    if given.flavor:
        options["flavor"] = given.flavor
    settings = MeasureSettings(seconds=given.seconds)
    not_done: list[str] = []
    fp32, qdq = convert_if_absent(given.run)
    report: dict[str, Any] = {"environment": describe_environment().to_dict(), "gpu": []}
    try:
        report["gpu"] = [asdict(gpu) for gpu in list_gpus()]
    except BackendMissingError as error:
        not_done.append(f"no GPU: {error}")
    engines: dict[str, Engine] = {}
    with tempfile.TemporaryDirectory() as name:
        try:
            engines = build_engines(fp32, qdq, Path(name), options, given.device)
            coverage = int8_coverage(node_macs(fp32), BACKEND.layers(engines["int8"]))
            report["int8_coverage"] = coverage.int8_coverage
        except BackendMissingError as error:
            not_done.append(f"TensorRT engines were not built: {error}")
        report["engines"] = {key: dict(engine.versions) for key, engine in engines.items()}
        before = clocks()
        with contestants(given, engines, not_done) as runners:
            report["batches"] = {}
            if runners:
                shape = next(iter(runners.values()))
                if None in single_input(shape).shape[1:]:  # torch alone: the ONNX file knows more
                    shape = _shape_of(fp32)
                report["batches"] = {
                    str(batch): time_batch(runners, batch, shape, settings) for batch in batches
                }
            if runners and "accuracy" not in given.skip:
                report["top1"] = accuracy(runners, given)
        report["clocks"] = [before, clocks()]
    return report | {"not_done": not_done}


def _shape_of(fp32: Path) -> Runner:
    from edgeres.backends.null.backend import NullRunner
    from edgeres.graph.summary import summarize

    found = summarize(fp32)
    return NullRunner(found.inputs, found.outputs)


def show(report: Mapping[str, Any]) -> None:
    """Prints the table, and what could not be done."""
    print(", ".join(gpu["name"] for gpu in report["gpu"]) or "no GPU")
    for name, versions in report["engines"].items():
        print(f"{name}: {', '.join(f'{key} {value}' for key, value in versions.items())}")
    if "int8_coverage" in report:
        print(f"INT8 coverage {report['int8_coverage']:.3f}")
    if report["batches"]:
        print("batch  engine              p50       p90       p99    device  images/s")
    for batch, results in report["batches"].items():
        for name, result in results.items():
            times = "".join(f"{result['latency_ms'][key]:10.3f}" for key in ("p50", "p90", "p99"))
            device = f"{result['device_ms']:10.3f}" if "device_ms" in result else f"{'-':>10}"
            doubt = "" if result["stable"] else "  (unstable)"
            per_s = result["throughput_per_s"]
            print(f"{batch:>5}  {name:<13}{times}{device}{per_s:10.0f}{doubt}")
    for name, top1 in report.get("top1", {}).items():
        print(f"top-1 {name}: {top1:.4f}")
    for text in report["not_done"]:
        print(f"NOT DONE: {text}", file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints and returns the exit code: 4 if anything could not be done here."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--run", type=Path, default=Path("runs/tensorrt-benchmark"))
    parser.add_argument("--checkpoint", type=Path, default=None, help="the network for torch")
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--samples", type=int, help="accuracy on the first so many images only")
    parser.add_argument("--batches", default="1,2,4,8,16,32,64", help="batch sizes, with commas")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--torch-device", help="where torch runs, if not on --device")
    parser.add_argument("--flavor", choices=["tensorrt", "tensorrt_rtx"])
    parser.add_argument("--cuda-graph", action="store_true")
    parser.add_argument("--skip", action="append", default=[], choices=["torch", "accuracy"])
    parser.add_argument("--seconds", type=float, default=4.0, help="for each engine and batch")
    parser.add_argument("--out", type=Path, help="where the numbers go")
    given = parser.parse_args(arguments)
    try:
        given.checkpoint = given.checkpoint or asset_path("recipes", _CHECKPOINT)
        report = run(given, [int(size) for size in given.batches.split(",")])
    except EdgeResError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    show(report)
    if given.out is not None:
        given.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return BackendMissingError.exit_code if report["not_done"] else 0


if __name__ == "__main__":
    # Run as a program, this file would be what `import tensorrt` finds first.
    here = Path(__file__).resolve().parent
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != here]
    raise SystemExit(main())
