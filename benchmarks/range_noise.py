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
from quantization import ENGINES, open_engine
from subjects import Subject, open_subject

from edgeres.backends import get_backend
from edgeres.quantization.calibrate import calibrate
from edgeres.quantization.quantize import quantize
from edgeres.quantization.settings import QuantizeSettings
from edgeres.quantization.table import CalibrationTable
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


def spread(subject: Subject) -> dict[str, Any]:
    """SQNR in dB by engine, for each factor, and what the values vary by."""
    batch = 4 if subject.large else 50
    table = calibrate(subject.fp32, subject.batches("calibration", batch), calibrator="mse")
    count = min(TEST_IMAGES, subject.count("test"))
    images = list(subject.batches("test", batch, count))
    run = open_engine("onnxruntime", str(subject.fp32))
    wanted = np.concatenate([run(part) for part in images])
    found: dict[str, Any] = {"images": count}
    for engine in ENGINES:
        values = []
        for factor in FACTORS:
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "q.onnx"
                rules = get_backend(engine).qdq_rules("cpu")
                settings = QuantizeSettings(calibrator="mse")
                quantize(subject.fp32, scaled(table, factor), rules, file, settings)
                run = open_engine(engine, str(file))
                values.append(sqnr_db(wanted, np.concatenate([run(part) for part in images])))
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
    rows = {}
    for name in arguments.subject or ("resnet20", "age", "gender"):
        rows[name] = spread(open_subject(name, arguments.work))
        print(name, rows[name], flush=True)
    told = {"environment": describe_environment().to_dict(), "factors": FACTORS, "rows": rows}
    if arguments.out:
        arguments.out.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
