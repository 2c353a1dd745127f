r"""TensorRT's arithmetic without TensorRT: what INT8, the rest in FP32 or FP16, costs in accuracy.

ONNX Runtime runs the FP32 file, the Q/DQ file and both in float16 on the CPU as they are written,
with all optimizations off: every Q rounds, every DQ scales, and float16 tensors round after every
node. That is the arithmetic that a strongly typed TensorRT engine is asked for; its kernels may sum
in another order. It tells nothing about speed, and it replaces no run on the GPU.

    edgeres convert recipes/tensorrt.yaml --output runs/trt
    python benchmarks/tensorrt_numerics.py runs/trt/baseline/model.onnx \
        runs/trt/tensorrt/model.qdq.onnx \
        --checkpoint recipes/checkpoints/fmnist_resnet20.safetensors \
        --out benchmarks/results/tensorrt_numerics.json
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgeres.backends.base import BuildConfig
from edgeres.backends.onnxruntime.backend import BACKEND
from edgeres.backends.tensorrt.fp16 import to_half
from edgeres.backends.tensorrt.graph import read_graph
from edgeres.backends.tensorrt.lint import lint, refuse_fatal
from edgeres.data.preprocess import Preprocess
from edgeres.data.source import open_dataset
from edgeres.data.types import Dataset
from edgeres.errors import EdgeResError
from edgeres.evaluation.compare import compare
from edgeres.evaluation.predict import predict
from edgeres.evaluation.predictions import Predictions
from edgeres.models.checkpoint import load_checkpoint
from edgeres.system.environment import describe_environment
from edgeres.system.files import file_sha256

_AS_WRITTEN = {"graph_optimization": "disabled"}


def answers(onnx: Path, folder: Path, dataset: Dataset, preprocess: Preprocess) -> Predictions:
    """Logits of a model on a data set, run as it is written."""
    engine = BACKEND.build(onnx, folder / f"{onnx.stem}.engine.onnx", BuildConfig("cpu"))
    with BACKEND.load(engine, BuildConfig("cpu", options=_AS_WRITTEN)) as runner:
        return predict(
            runner,
            dataset,
            preprocess,
            batch_size=100,
            name=onnx.stem,
            model_sha256=engine.source_sha256,
        )


def run(given: argparse.Namespace) -> dict[str, Any]:
    """Compares them; see ``main`` for the arguments."""
    checkpoint = load_checkpoint(given.checkpoint)
    preprocess = checkpoint.preprocess or Preprocess()
    dataset = open_dataset(given.data, split="validation")
    if given.samples is not None:
        dataset = dataset.subset(range(min(given.samples, len(dataset))))
    graph = read_graph(given.qdq)
    refuse_fatal(lint(graph), str(given.qdq))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        half = folder / "int8_rest_float16.onnx"
        to_half(graph, half)
        all_half = folder / "float16.onnx"
        to_half(read_graph(given.fp32), all_half)
        baseline = answers(given.fp32, folder, dataset, preprocess)
        found = {
            "float16": answers(all_half, folder, dataset, preprocess),
            "int8, rest float32": answers(given.qdq, folder, dataset, preprocess),
            "int8, rest float16": answers(half, folder, dataset, preprocess),
        }
    results = {}
    for title, candidate in found.items():
        comparison = compare(baseline, candidate)
        results[title] = {
            "top1": comparison.top1,
            "drop_pp": comparison.drop_pp,
            "drop_upper_pp": comparison.drop_upper_pp,
            "agreement": comparison.agreement,
            "sqnr_db": comparison.sqnr_db,
        }
    return {
        "model_sha256": {"fp32": file_sha256(given.fp32), "qdq": file_sha256(given.qdq)},
        "data": dataset.name,
        "samples": len(dataset),
        "baseline_top1": float(baseline.correct.mean()),
        "environment": describe_environment().to_dict(),
        "results": results,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Compares, prints and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("fp32", type=Path, help="FP32 ONNX file")
    parser.add_argument("qdq", type=Path, help="Q/DQ ONNX file made under the rules of tensorrt")
    parser.add_argument("--checkpoint", type=Path, required=True, help="tells the preprocessing")
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--samples", type=int, help="only the first so many images")
    parser.add_argument("--out", type=Path, help="where the numbers go")
    given = parser.parse_args(arguments)
    try:
        report = run(given)
    except EdgeResError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(f"FP32 top-1 {report['baseline_top1']:.4f} on {report['samples']} images")
    for title, result in report["results"].items():
        print(
            f"{title}: top-1 {result['top1']:.4f}, drop {result['drop_pp']:+.2f} points "
            f"(at most {result['drop_upper_pp']:+.2f}), agreement {result['agreement']:.4f}, "
            f"SQNR {result['sqnr_db']:.1f} dB"
        )
    if given.out is not None:
        given.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
