"""How much SQNR moves when all ranges of a network move by a percent: what no choice can beat.

    python benchmarks/range_noise.py --work WORK --out benchmarks/results/range_noise.json

Needs the work folder of `quantization.py` with its subjects. The ranges of `mse` are scaled by
0.98 to 1.02, all of a network together, and the files run on both CPU engines. A range that is one
percent wider is as good or bad as before; where its SQNR differs, that is rounding that falls
another way, and a difference of that size between two calibrators says nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from quantization import ENGINES
from subjects import Subject, open_subject

from edgeres.backends import get_backend
from edgeres.backends.base import BuildConfig
from edgeres.quantization.calibrate import calibrate
from edgeres.quantization.quantize import quantize
from edgeres.quantization.table import CalibrationTable
from edgeres.recipe.quantize import QuantizeSettings
from edgeres.sqnr import sqnr_db
from edgeres.system.environment import describe_environment

FACTORS = (0.98, 0.985, 0.99, 0.995, 1.0, 1.005, 1.01, 1.015, 1.02)
TEST_IMAGES = 2000


def scaled(table: CalibrationTable, factor: float) -> CalibrationTable:
    """The table with the `mse` ranges of all tensors but the image scaled."""
    image, *others = table.tensors
    tensors = {image: table.tensors[image]}
    for name in others:
        stats = table.tensors[name]
        found = stats.ranges["mse"]
        range_ = type(found)(found.low * factor, found.high * factor, found.magnitude * factor)
        tensors[name] = replace(stats, ranges={**stats.ranges, "mse": range_})
    return replace(table, tensors=tensors)


def answers(engine: str, file: Path, images: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """``(N, K) float32`` of an ONNX file that an engine is built of."""
    backend = get_backend(engine)
    built = backend.build(file, file.with_suffix(backend.engine_suffix), BuildConfig(device="cpu"))
    with backend.load(built, BuildConfig(device="cpu", threads=2)) as runner:
        (source,), (target,) = runner.inputs, runner.outputs
        found = [runner.infer({source.name: part})[target.name] for part in images]
    return np.concatenate(found).astype(np.float32)


def spread(subject: Subject) -> dict[str, Any]:
    """SQNR in dB by engine, for each factor, and what the values vary by."""
    batch = 4 if subject.large else 50
    table = calibrate(subject.fp32, subject.batches("calibration", batch), calibrator="mse")
    count = min(TEST_IMAGES, subject.count("test"))
    images = list(subject.batches("test", batch, count))
    with tempfile.TemporaryDirectory() as folder:
        copied = Path(folder) / "fp32.onnx"
        copied.write_bytes(subject.fp32.read_bytes())
        wanted = answers("onnxruntime", copied, images)
    found: dict[str, Any] = {"images": count}
    for engine in ENGINES:
        values = []
        for factor in FACTORS:
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "q.onnx"
                rules = get_backend(engine).qdq_rules("cpu")
                settings = QuantizeSettings(calibrator="mse")
                quantize(subject.fp32, scaled(table, factor), rules, file, settings)
                values.append(sqnr_db(wanted, answers(engine, file, images)))
        found[engine] = {
            "sqnr_db": values,
            "deviation_db": statistics.stdev(values),
            "range_db": max(values) - min(values),
        }
    return found


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--subject", action="append", default=[])
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    out = arguments.out
    rows = json.loads(out.read_text())["rows"] if out is not None and out.is_file() else {}
    for name in arguments.subject or ("resnet20", "age", "gender"):
        rows[name] = spread(open_subject(name, arguments.work))
        print(name, rows[name], flush=True)
    told = {"environment": describe_environment().to_dict(), "factors": FACTORS, "rows": rows}
    if arguments.out:
        arguments.out.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
