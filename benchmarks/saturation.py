"""Saturation-safe weights on a CPU without VNNI: what they cost, and what they save.

The network of the default recipe (the reference ResNet-20, pruned) is quantized with and without
saturation-safe weights, and both files run on the real engines: on this CPU, and on this CPU as one
that has AVX2 but no VNNI (`without_vnni.py`), where two products of uint8 and int8 share an int16.
The table gives the logits' SQNR against the FP32 network.

    python benchmarks/saturation.py --out benchmarks/results/saturation.json
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table
from without_vnni import CannotHideError, environment

from edgeres.backends import get_backend
from edgeres.backends.base import BuildConfig
from edgeres.backends.sidecar import read_engine
from edgeres.data.preprocess import Preprocess
from edgeres.data.sampling import take
from edgeres.data.source import open_dataset
from edgeres.evaluation.compare import compare
from edgeres.evaluation.predict import predict
from edgeres.evaluation.predictions import load_predictions
from edgeres.recipe.quantize import QuantizeBlock
from edgeres.recipe.recipe import ExportSettings
from edgeres.stages.int8 import calibrate, quantize
from edgeres.stages.network import build, export
from edgeres.system.assets import asset_folder
from edgeres.system.environment import describe_environment

PREPROCESS = Preprocess(mean=(0.286,), std=(0.353,), channels=1)
BACKENDS = ("onnxruntime", "openvino")
CPUS = ("native", "without_vnni")


def pruned_reference() -> Path:
    """Checkpoint of the default recipe's pruning, which ships with edgeres."""
    return next((asset_folder("recipes") / "stages").glob("prune-*/checkpoint.safetensors"))


def run_engine(engine: Path, images: int, out: Path) -> None:
    """Answers of one engine on the first validation images; also runs in a child process."""
    backend = get_backend(read_engine(engine).backend)
    validation = take(open_dataset("fashion-mnist", split="validation"), images)
    with backend.load(read_engine(engine), BuildConfig(threads=1)) as runner:
        predict(runner, validation, PREPROCESS, batch_size=50).save(out)


def probe(backend: str) -> None:
    """Prints whether the engine saturates on the CPU that this runs on, and what that has."""
    saturating = get_backend(backend).qdq_rules("cpu").saturating
    isa = describe_environment(()).isa
    print(json.dumps({"isa": isa, "probe_says_saturating": saturating}))


def child(arguments: list[str], cpu: str) -> str:
    """Runs this program again, on the CPU as it is or without VNNI; returns what it printed."""
    command = [sys.executable, __file__, *arguments]
    variables = environment() if cpu == "without_vnni" else None
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=variables)
    return done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ""


def measure(checkpoint: Path, images: int, folder: Path) -> list[dict[str, object]]:
    """Quantizes, builds and runs everything; one row a backend, kind of weights and CPU."""
    fp32 = folder / "fp32.onnx"
    export(checkpoint, fp32, image_size=(28, 28), settings=ExportSettings())
    table = folder / "table.json"
    calibrate(
        fp32,
        table,
        data="fashion-mnist",
        samples=512,
        preprocess=PREPROCESS,
    )
    rows: list[dict[str, object]] = []
    for name in BACKENDS:
        reference = folder / f"{name}-fp32.npz"
        run_engine(build(fp32, folder / name / "fp32", target=name).path, images, reference)
        rules = get_backend(name).qdq_rules("cpu")
        probed = {cpu: json.loads(child(["--probe", name], cpu)) for cpu in CPUS}
        for weights in ("plain", "safe"):
            qdq = folder / f"{name}-{weights}.onnx"
            wanted = replace(rules, saturating=weights == "safe")
            result = quantize(fp32, table, qdq, rules=wanted, settings=QuantizeBlock())
            engine = build(qdq, folder / name / weights, target=name).path
            for cpu in CPUS:
                out = folder / f"{name}-{weights}-{cpu}.npz"
                child([str(engine), str(images), str(out)], cpu)
                found = compare(load_predictions(reference), load_predictions(out))
                rows.append(
                    {
                        "backend": name,
                        "weights": weights,
                        "cpu": cpu,
                        **probed[cpu],
                        "proof_holds": result.saturation_safe,
                        "sqnr_db": found.sqnr_db,
                        "agreement": found.agreement,
                        "top1": found.top1,
                        "fp32_top1": found.baseline_top1,
                    }
                )
                print(rows[-1], file=sys.stderr)
    return rows


def main() -> None:
    """Parses arguments, measures, prints a table and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("engine", nargs="?", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("count", nargs="?", type=int, help=argparse.SUPPRESS)
    parser.add_argument("answers", nargs="?", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--probe", help=argparse.SUPPRESS)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--checkpoint", type=Path, default=pruned_reference())
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.probe:
        probe(arguments.probe)
        return
    if arguments.engine:
        run_engine(arguments.engine, arguments.count, arguments.answers)
        return
    try:
        if environment() == dict(os.environ):
            parser.error("this CPU shows no VNNI as it is, so there are no two CPUs to compare")
    except (CannotHideError, OSError) as error:
        parser.error(str(error))
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(arguments.checkpoint, arguments.images, Path(folder))
    table = Table("Backend", "Weights", "CPU", "Saturates", "SQNR dB", "Agreement %", box=None)
    for row in rows:
        table.add_row(
            *(str(row[key]) for key in ("backend", "weights", "cpu", "probe_says_saturating")),
            f"{row['sqnr_db']:.1f}",
            f"{100 * float(str(row['agreement'])):.1f}",
        )
    Console().print(table)
    if arguments.out:
        content = {
            "environment": describe_environment().to_dict(),
            "checkpoint": arguments.checkpoint.name,
            "images": arguments.images,
            "rows": rows,
        }
        arguments.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
