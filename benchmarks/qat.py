"""Quantization-aware training against post-training quantization, on the reference ResNet-20.

Each case is calibrated, quantized, trained shortly on a part of the Fashion-MNIST training images
and quantized again with what was learned. Top-1 is on the held-out training images, which also
decide whether the training is kept; SQNR and agreement of the logits with FP32 are on test images
and use no labels. All answers are those of the Q/DQ file as it is written (ONNX Runtime, graph
optimizations off).

Besides two of the pipeline's rule sets there are two that INT8 finds hard: one weight scale for a
whole tensor, on a network whose channels inside the residual blocks were rescaled (by powers of
two; the FP32 function is the same), and calibrated ranges that are much too narrow.

    python benchmarks/qat.py --out benchmarks/results/qat.json
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from rich.console import Console
from rich.table import Table

from edgeres.backends import get_backend
from edgeres.backends.base import QdqRules
from edgeres.data.batches import batches
from edgeres.data.preprocess import Preprocess
from edgeres.data.sampling import take
from edgeres.data.source import open_dataset
from edgeres.data.types import Dataset
from edgeres.quantization.qat_parameters import QatParameters
from edgeres.quantization.quantize import quantize
from edgeres.quantization.simulate import simulated_logits
from edgeres.quantization.table import CalibrationTable
from edgeres.recipe.quantize import QuantizeSettings
from edgeres.recipe.recipe import ExportSettings
from edgeres.recipe.training import QatSettings
from edgeres.sqnr import sqnr_db
from edgeres.stages.int8 import calibrate
from edgeres.stages.network import export
from edgeres.system.assets import asset_path
from edgeres.system.environment import describe_environment
from edgeres.training.qat import train_quantized
from edgeres.training.split import split_held_out

PREPROCESS = Preprocess(mean=(0.286,), std=(0.353,), channels=1)
RESCALED_BY = 3  # powers of two, up to 2**3 and down to 2**-3
TOO_NARROW = 0.3


@dataclass(frozen=True)
class Case:
    """A network, its table and the rules that it is quantized under."""

    name: str
    onnx: Path
    table: CalibrationTable
    rules: QdqRules


def rescaled(source: Path, target: Path, seed: int = 0) -> None:
    """Multiplies the channels between the two convolutions of each block, and divides them again.

    A Relu stands between them and the factors are positive powers of two, so the FP32 answers do
    not change; the weights of different channels become very different in size.
    """
    model = onnx.load(source)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    random = np.random.default_rng(seed)
    nodes = {node.name: node for node in model.graph.node}
    for name in [name for name in nodes if name.endswith(".conv1")]:
        second = nodes.get(f"{name.removesuffix('1')}2")
        if second is None:
            continue
        weight, bias = (numpy_helper.to_array(tensors[i]) for i in nodes[name].input[1:3])
        after = numpy_helper.to_array(tensors[second.input[1]])
        power = random.integers(-RESCALED_BY, RESCALED_BY + 1, len(weight))
        factor = np.exp2(power).astype(np.float32)
        changed: dict[str, NDArray[np.floating]] = {
            nodes[name].input[1]: weight * factor[:, None, None, None],
            nodes[name].input[2]: bias * factor,
            second.input[1]: after / factor[None, :, None, None],
        }
        for key, value in changed.items():
            tensors[key].CopyFrom(numpy_helper.from_array(value, key))
    onnx.save(model, target)


def make_cases(checkpoint: Path, folder: Path) -> Iterator[Case]:
    """Exports, calibrates and names the cases."""
    fp32, changed = folder / "fp32.onnx", folder / "rescaled.onnx"
    export(checkpoint, fp32, image_size=(28, 28), settings=ExportSettings())
    rescaled(fp32, changed)
    tables = {
        path: calibrate(
            path,
            path.with_suffix(".json"),
            data="fashion-mnist",
            samples=512,
            preprocess=PREPROCESS,
        )
        for path in (fp32, changed)
    }
    symmetric = get_backend("tensorrt").qdq_rules("cuda:0")
    unsigned = get_backend("onnxruntime").qdq_rules("cpu")
    yield Case("symmetric int8 (TensorRT)", fp32, tables[fp32], symmetric)
    safe = replace(unsigned, saturating=True)
    yield Case("uint8, saturation-safe (ONNX Runtime)", fp32, tables[fp32], safe)
    one_scale = replace(symmetric, weight_granularity="per_tensor")
    yield Case("one scale a tensor, rescaled channels", changed, tables[changed], one_scale)
    yield Case("ranges too narrow", fp32, narrowed(tables[fp32]), symmetric)


def narrowed(table: CalibrationTable) -> CalibrationTable:
    """The same table with every range at a fraction of its size."""
    tensors = {}
    for name, stats in table.tensors.items():
        ranges = {
            key: replace(
                found,
                low=found.low * TOO_NARROW,
                high=found.high * TOO_NARROW,
                magnitude=found.magnitude * TOO_NARROW,
            )
            for key, found in stats.ranges.items()
        }
        tensors[name] = replace(stats, ranges=ranges)
    return replace(table, tensors=tensors)


def images_of(data: Dataset) -> NDArray[np.float32]:
    """All images of a set as the network sees them."""
    return np.concatenate([images for images, _ in batches(data, PREPROCESS, 500)])


def measure(case: Case, qat: QatSettings, images: int, test: int, folder: Path) -> dict[str, Any]:
    """Quantizes, trains and quantizes again; one row."""
    full = open_dataset("fashion-mnist", split="train")
    learn, check = split_held_out(full.labels, qat.held_out, qat.seed)
    chosen = np.sort(np.random.default_rng(qat.seed).permutation(learn)[:images])
    held_out = full.subset(check.tolist())
    seen = images_of(take(open_dataset("fashion-mnist", split="validation"), test))
    kept = images_of(held_out)
    reference, fp32_kept = (simulated_logits(case.onnx, [part]) for part in (seen, kept))

    def answers(qat: QatParameters | None) -> dict[str, float]:
        qdq = folder / "q.onnx"
        quantize(case.onnx, case.table, case.rules, qdq, QuantizeSettings(), qat=qat)
        found = simulated_logits(qdq, [seen])
        right = simulated_logits(qdq, [kept]).argmax(1) == held_out.labels
        return {
            "top1": float(right.mean()),
            "sqnr_db": sqnr_db(reference, found),
            "agreement": float((found.argmax(1) == reference.argmax(1)).mean()),
        }

    before = answers(None)
    result = train_quantized(
        case.onnx,
        case.table,
        case.rules,
        QuantizeSettings(),
        qat,
        full.subset(chosen.tolist()),
        held_out,
        folder / case.name.replace(" ", "-"),
        preprocess=PREPROCESS,
    )
    row = {
        "case": case.name,
        "fp32_top1": float((fp32_kept.argmax(1) == held_out.labels).mean()),
        "ptq": before,
        "qat": answers(result.parameters),
        "kept": result.kept,
        "epochs": [vars(record) for record in result.history],
    }
    print(json.dumps({key: row[key] for key in ("case", "ptq", "qat", "kept")}), file=sys.stderr)
    return row


def main() -> None:
    """Parses arguments, measures, prints a table and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--images", type=int, default=4000, help="training images")
    parser.add_argument("--test", type=int, default=2000, help="test images for SQNR and agreement")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--learning-rate", type=float, default=QatSettings().learning_rate)
    parser.add_argument("--only", default="", help="cases whose name has this text in it")
    checkpoint = asset_path("recipes", "checkpoints/fmnist_resnet20.safetensors")
    parser.add_argument("--checkpoint", type=Path, default=checkpoint)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    qat = QatSettings(epochs=arguments.epochs, learning_rate=arguments.learning_rate)
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            measure(case, qat, arguments.images, arguments.test, Path(folder))
            for case in make_cases(arguments.checkpoint, Path(folder))
            if arguments.only in case.name
        ]
    table = Table("Case", "Top-1 %: FP32", "PTQ", "QAT", "SQNR dB: PTQ", "QAT", "Kept", box=None)
    for row in rows:
        table.add_row(
            row["case"],
            *(f"{100 * top1:.2f}" for top1 in (row["fp32_top1"], row["ptq"]["top1"])),
            f"{100 * row['qat']['top1']:.2f}",
            *(f"{row[kind]['sqnr_db']:.1f}" for kind in ("ptq", "qat")),
            row["kept"],
        )
    Console().print(table)
    if arguments.out:
        content = {
            "environment": describe_environment().to_dict(),
            "checkpoint": arguments.checkpoint.name,
            "settings": qat.model_dump(),
            "training_images": arguments.images,
            "test_images": arguments.test,
            "rows": rows,
        }
        arguments.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
