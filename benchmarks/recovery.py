"""Accuracy recovery without labels: what each switch of the `quantize:` block gives and costs.

The reference ResNet-20 is quantized with one switch after the other, always under the saturation
rule, and every file runs on the real engines of this CPU. The table gives the logits' SQNR against
the FP32 network and the top-1. A second network is the same function with channels inside its
blocks up to 64 times unlike each other, which is what equalization is for.

    python benchmarks/recovery.py --images 2000 --out benchmarks/results/recovery.json

`--cost` measures a ResNet-18 at 224 x 224 instead: seconds of quantization, beside those of the
bare FP32 forward passes of as many images. Its result goes into the same file.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from edgeres.backends import get_backend
from edgeres.backends.base import BuildConfig, Engine
from edgeres.data.preprocess import Preprocess
from edgeres.data.sampling import take
from edgeres.data.source import open_dataset
from edgeres.evaluation.compare import compare
from edgeres.evaluation.predict import predict
from edgeres.evaluation.predictions import Predictions
from edgeres.quantization.settings import quantize_settings
from edgeres.recipe.compress import QuantizeBlock
from edgeres.recipe.recipe import ExportBlock
from edgeres.stages.int8 import calibrate, equalize, quantize
from edgeres.stages.network import build, export
from edgeres.system.assets import asset_folder
from edgeres.system.environment import describe_environment

PREPROCESS = Preprocess(mean=(0.286,), std=(0.353,), channels=1)
BACKENDS = ("onnxruntime", "openvino")
CALIBRATION = 512
#: One switch after the other; what a block leaves out is off.
SWITCHES: dict[str, dict[str, Any]] = {
    "none": {"bias_correction": "off"},
    "analytic bias": {"bias_correction": "analytic"},
    "empirical bias": {"bias_correction": "empirical"},
    "equalize, analytic bias": {"bias_correction": "analytic", "equalize": True},
    "equalize, empirical bias": {"bias_correction": "empirical", "equalize": True},
    "learned, analytic bias": {"bias_correction": "analytic", "rounding": "learned"},
    "learned, empirical bias": {"bias_correction": "empirical", "rounding": "learned"},
    "all": {"bias_correction": "empirical", "rounding": "learned", "equalize": True},
}
COSTS = ("analytic bias", "empirical bias", "learned, analytic bias")


def answers(engine: Engine, images: int) -> Predictions:
    """Answers of an engine on validation images."""
    backend = get_backend(engine.backend)
    validation = take(open_dataset("fashion-mnist", split="validation"), images)
    with backend.load(engine, BuildConfig()) as runner:
        return predict(runner, validation, PREPROCESS, batch_size=50)


def unlike(onnx: Path, out: Path, ratio: float = 64.0) -> Path:
    """The same function with channels inside its blocks up to ``ratio`` times unlike."""
    import onnx_ir as ir

    from edgeres.graph.layers import load_model
    from edgeres.quantization.equalize import apply_factors, equalizing_factors

    model = load_model(onnx)
    random = np.random.default_rng(0)
    powers = int(np.log2(ratio))
    factors = {
        link: np.exp2(random.integers(0, powers + 1, len(found)).astype(np.float64))
        for link, found in equalizing_factors(model.graph).items()
    }
    apply_factors(model.graph, factors)
    ir.save(model, out)
    return out


def calibrated(onnx: Path) -> Path:
    """Calibration table of a model, beside it."""
    table = onnx.with_suffix(".json")
    calibrate(
        onnx,
        table,
        data="fashion-mnist",
        samples=CALIBRATION,
        preprocess=PREPROCESS,
        settings=QuantizeBlock(),
    )
    return table


def measure(checkpoint: Path, images: int, folder: Path) -> list[dict[str, Any]]:
    """Quantizes, builds and runs everything; one row a network, backend, rule and switch."""
    reference = folder / "reference.onnx"
    export(checkpoint, reference, image_size=(28, 28), settings=ExportBlock())
    rows: list[dict[str, Any]] = []
    for network, onnx in (
        ("reference", reference),
        ("unlike channels", unlike(reference, folder / "unlike.onnx")),
    ):
        even = folder / f"{onnx.stem}-equalized.onnx"
        equalize(onnx, even)
        tables = {file: calibrated(file) for file in (onnx, even)}
        for name in BACKENDS:
            fp32 = answers(build(onnx, folder / name / onnx.stem, target=name), images)
            for rule in ("on", "off"):
                for label, switches in SWITCHES.items():
                    block = QuantizeBlock(**switches, saturation_safe=rule)
                    source = even if block.equalize else onnx
                    row = {"network": network, "backend": name, "saturation_rule": rule}
                    rows.append(
                        {**row, "switches": label}
                        | one(source, tables[source], name, block, fp32, images, folder)
                    )
                    print(rows[-1], file=sys.stderr)
    return rows


def one(
    onnx: Path,
    table: Path,
    backend: str,
    block: QuantizeBlock,
    fp32: Predictions,
    images: int,
    folder: Path,
) -> dict[str, Any]:
    """One file through one engine."""
    started = time.monotonic()
    result = quantize(
        onnx,
        table,
        folder / "q.onnx",
        rules=get_backend(backend).qdq_rules("cpu"),
        settings=block,
        data="fashion-mnist",
        samples=CALIBRATION,
        preprocess=PREPROCESS,
    )
    seconds = time.monotonic() - started
    found = compare(fp32, answers(build(folder / "q.onnx", folder / "q", target=backend), images))
    gains = list(result.rounding_gain_db.values())
    return {
        "sqnr_db": found.sqnr_db,
        "top1": found.top1,
        "fp32_top1": found.baseline_top1,
        "agreement": found.agreement,
        "proof_holds": result.saturation_safe,
        "rounding_gain_db": float(np.mean(gains)) if gains else None,
        "quantize_seconds": seconds,
    }


def cost(folder: Path, images: int = 64) -> dict[str, Any]:
    """Seconds and peak memory on a ResNet-18; random weights cost what trained ones do."""
    from edgeres.exporting.to_onnx import export_onnx
    from edgeres.graph.session import open_session, run_session
    from edgeres.models.build import build_model
    from edgeres.models.plan import plan_for
    from edgeres.quantization.calibrate import calibrate as calibration
    from edgeres.quantization.forward import chunks
    from edgeres.quantization.quantize import quantize as run
    from edgeres.system.memory import peak_rss_bytes

    onnx = folder / "resnet18.onnx"
    export_onnx(build_model(plan_for("resnet18")).eval(), (3, 224, 224), onnx)
    random = np.random.default_rng(0)
    coarse = random.normal(size=(images, 3, 28, 28)).astype(np.float32)
    shown = np.kron(coarse, np.ones((1, 1, 8, 8), np.float32))
    session = open_session(onnx.read_bytes())
    run_session(session, shown[:2])
    seconds: dict[str, float] = {}
    started = time.monotonic()
    for chunk in chunks(iter([shown])):
        run_session(session, chunk)
    seconds["bare forward"] = time.monotonic() - started
    del session
    started = time.monotonic()
    table = calibration(onnx, [shown])
    seconds["calibration"] = time.monotonic() - started
    peak = {}
    rules = replace(get_backend("onnxruntime").qdq_rules("cpu"), saturating=True)
    for label in COSTS:
        settings = quantize_settings(QuantizeBlock(**SWITCHES[label]))
        started = time.monotonic()
        run(onnx, table, rules, folder / "q.onnx", settings, images=shown)
        seconds[f"quantize: {label}"] = time.monotonic() - started
        peak[label] = peak_rss_bytes()
        print(label, seconds, peak, file=sys.stderr)
    return {"images": images, "seconds": seconds, "peak_rss_bytes": peak}


def printed(rows: list[Mapping[str, Any]]) -> Table:
    """The rows as a table: one line a network, backend and switch, both rules side by side."""
    table = Table(
        "Network", "Backend", "Switches", "dB safe", "top-1", "dB plain", "top-1", box=None
    )
    plain = {key(row): row for row in rows if row["saturation_rule"] == "off"}
    for row in (row for row in rows if row["saturation_rule"] == "on"):
        cells = [
            text
            for side in (row, plain[key(row)])
            for text in (f"{side['sqnr_db']:.2f}", f"{100 * side['top1']:.2f}")
        ]
        table.add_row(*key(row), *cells)
    return table


def key(row: Mapping[str, Any]) -> tuple[str, str, str]:
    """What a row is about, the rule apart."""
    return row["network"], row["backend"], row["switches"]


def main() -> None:
    """Parses arguments, measures, prints and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--cost", action="store_true", help="Measure the cost on a ResNet-18.")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    found: dict[str, Any] = {"environment": describe_environment().to_dict()}
    with tempfile.TemporaryDirectory() as folder:
        if arguments.cost:
            found["cost_resnet18"] = cost(Path(folder))
            Console().print_json(data=found["cost_resnet18"])
        else:
            checkpoint = asset_folder("recipes") / "checkpoints" / "fmnist_resnet20.safetensors"
            found["images"] = arguments.images
            found["rows"] = measure(checkpoint, arguments.images, Path(folder))
            Console(width=120).print(printed(found["rows"]))
    if arguments.out:
        before = json.loads(arguments.out.read_text()) if arguments.out.is_file() else {}
        arguments.out.write_text(json.dumps({**before, **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
