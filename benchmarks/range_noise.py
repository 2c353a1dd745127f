"""Which calibrator is better once chance is averaged out, and how much chance there is in one file.

    python benchmarks/range_noise.py --work WORK --out benchmarks/results/range_noise.json

Needs the work folder of `quantization.py` with its subjects. The ranges of each calibrator are
scaled by 0.98 to 1.02, all of a network together, and the files run on both CPU engines. A range
that is one percent wider is as good or bad as before; where its SQNR differs, that is rounding that
falls another way, and a difference of that size between two single files says nothing. The means
over all scales can be compared: `ahead_db` is by how much a calibrator's is above the default's,
`doubt_db` twice its standard error. That is for these very images. Where a few of them make most of
the noise, other images of the same kind may say otherwise: `images_db` is the 95 % interval of
`ahead_db` over images drawn anew from these, with replacement, the same for both calibrators
(percentile bootstrap); `worst_five` is the share of the noise in the five worst images.

`--which calibration` runs the images that calibrated: what no choice made on them can see is in
the rows of the test images only.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from quantization import ENGINES
from subjects import SUBJECTS, Subject, open_subject

from edgeres.backends import get_backend
from edgeres.backends.base import BuildConfig
from edgeres.quantization.calibrate import calibrate
from edgeres.quantization.quantize import quantize
from edgeres.quantization.table import CalibrationTable
from edgeres.recipe.quantize import QuantizeSettings
from edgeres.system.environment import describe_environment

CALIBRATORS = ("mse", "midway", "percentile", "minmax")
FACTORS = (0.98, 0.985, 0.99, 0.995, 1.0, 1.005, 1.01, 1.015, 1.02)
TEST_IMAGES = 2000
DRAWS = 2000


def scaled(table: CalibrationTable, calibrator: str, factor: float) -> CalibrationTable:
    """The table whose `mse` ranges are a calibrator's, all but the image's scaled."""
    image, *others = table.tensors
    tensors = dict(table.tensors)
    for name in (image, *others):
        stats = table.tensors[name]
        found, by = stats.ranges[calibrator], 1.0 if name == image else factor
        range_ = type(found)(found.low * by, found.high * by, found.magnitude * by)
        tensors[name] = replace(stats, ranges={**stats.ranges, "mse": range_})
    return replace(table, tensors=tensors)


def chosen(table: CalibrationTable) -> str:
    """The plain calibrator whose ranges the default took."""
    return next(
        name
        for name in CALIBRATORS
        if all(s.ranges[name] == s.ranges["output"] for s in table.tensors.values())
    )


def answers(engine: str, file: Path, images: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """``(N, K) float32`` of an ONNX file that an engine is built of."""
    backend = get_backend(engine)
    built = backend.build(file, file.with_suffix(backend.engine_suffix), BuildConfig(device="cpu"))
    with backend.load(built, BuildConfig(device="cpu", threads=2)) as runner:
        (source,), (target,) = runner.inputs, runner.outputs
        found = [runner.infer({source.name: part})[target.name] for part in images]
    return np.concatenate(found).astype(np.float32)


def spread(subject: Subject, factors: Sequence[float], which: str) -> dict[str, Any]:
    """SQNR in dB by engine, calibrator and factor, its mean, and how it stands to the default's."""
    batch = 4 if subject.large else 50
    table = calibrate(subject.fp32, subject.batches("calibration", batch), calibrator="output")
    count = min(TEST_IMAGES, subject.count(which), subject.count("test"))
    images = list(subject.batches(which, batch, count))
    with tempfile.TemporaryDirectory() as folder:
        copied = Path(folder) / "fp32.onnx"
        copied.write_bytes(subject.fp32.read_bytes())
        wanted = answers("onnxruntime", copied, images)
    default = chosen(table)
    found: dict[str, Any] = {"images": count, "default": default, "factors": list(factors)}
    signal = _squares(wanted)
    for engine in ENGINES:
        noise = {
            calibrator: np.stack(
                [
                    _noise(subject, scaled(table, calibrator, factor), engine, images, wanted)
                    for factor in factors
                ]
            )
            for calibrator in CALIBRATORS
        }
        values = {name: _sqnr_db(signal, of_one).tolist() for name, of_one in noise.items()}
        worst = np.sort(noise[default].sum(axis=0))[::-1]
        found[engine] = {"worst_five": float(worst[:5].sum() / worst.sum())} | {
            calibrator: {
                "sqnr_db": of_one,
                "mean_db": statistics.mean(of_one),
                "deviation_db": statistics.stdev(of_one),
                "ahead_db": statistics.mean(of_one) - statistics.mean(values[default]),
                "doubt_db": 2 * _error_db(of_one, values[default]),
                "images_db": _over_images(signal, noise[calibrator], noise[default]),
            }
            for calibrator, of_one in values.items()
        }
    return found


def _squares(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    """``(N,)`` energy of each image's answer."""
    return np.asarray(np.square(rows.reshape(len(rows), -1).astype(np.float64)).sum(axis=1))


def _sqnr_db(signal: NDArray[np.float64], noise: NDArray[np.float64]) -> NDArray[np.float64]:
    """``(F,)`` of ``(N,)`` signals and ``(F, N)`` noises, summed over the images."""
    return np.asarray(10 * np.log10(signal.sum() / noise.sum(axis=1)))


def _over_images(
    signal: NDArray[np.float64], one: NDArray[np.float64], other: NDArray[np.float64]
) -> list[float]:
    """95 % interval in dB of by how much one is ahead, over images drawn anew."""
    chance = np.random.default_rng(0)
    ahead = []
    for _ in range(DRAWS):
        drawn = chance.integers(0, len(signal), len(signal))
        gap = _sqnr_db(signal[drawn], one[:, drawn]) - _sqnr_db(signal[drawn], other[:, drawn])
        ahead.append(float(gap.mean()))
    return [float(end) for end in np.percentile(ahead, [2.5, 97.5])]


def _noise(
    subject: Subject,
    table: CalibrationTable,
    engine: str,
    images: list[NDArray[np.float32]],
    wanted: NDArray[np.float32],
) -> NDArray[np.float64]:
    """``(N,)`` squared error of each image's answer."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "q.onnx"
        rules = get_backend(engine).qdq_rules("cpu")
        quantize(subject.fp32, table, rules, file, QuantizeSettings(calibrator="mse"))
        return _squares(answers(engine, file, images) - wanted)


def _error_db(one: list[float], other: list[float]) -> float:
    """Standard error of the difference of two means; 0 for a list and itself."""
    if one is other:
        return 0.0
    return math.hypot(
        *(statistics.stdev(values) / math.sqrt(len(values)) for values in (one, other))
    )


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--subject", action="append", default=[])
    parser.add_argument("--factor", type=float, action="append", default=[])
    parser.add_argument("--which", choices=("test", "calibration"), default="test")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    out = arguments.out
    rows = json.loads(out.read_text())["rows"] if out is not None and out.is_file() else {}
    for name in arguments.subject or SUBJECTS:
        subject = open_subject(name, arguments.work)
        row = name if arguments.which == "test" else f"{name}, {arguments.which} images"
        rows[row] = spread(subject, arguments.factor or FACTORS, arguments.which)
        print(row, rows[row], flush=True)
        told = {"environment": describe_environment().to_dict(), "rows": rows}
        if out is not None:
            out.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
