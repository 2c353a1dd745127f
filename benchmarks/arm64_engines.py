"""What engines answer on the CPU that this runs on; no part of it needs torch.

`arm64.py` starts it on this machine and in the emulated environment, over the same files.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import edgeres.backends.onnxruntime.layers
import edgeres.backends.openvino.layers
from edgeres.backends import get_backend
from edgeres.backends.base import BuildConfig
from edgeres.errors import EdgeResError
from edgeres.evaluation.inspect import inspect
from edgeres.sqnr import sqnr_db
from edgeres.system.environment import describe_environment

BACKENDS = ("onnxruntime", "openvino")
INPUTS = "inputs.npz"  # x, and the FP32 logits that x86 gave

# Layers are read for their precision alone; their times, which take more runs, say nothing here.
edgeres.backends.openvino.layers.WARM_UP, edgeres.backends.openvino.layers.RUNS = 1, 2
edgeres.backends.onnxruntime.layers.RUNS = 1


def run_file(source: Path, backend_name: str, place: Path) -> dict[str, Any]:
    """One row: a Q/DQ or FP32 file built and run here, against the FP32 logits of x86."""
    backend = get_backend(backend_name)
    engine = backend.build(
        source, place / f"{source.stem}{backend.engine_suffix}", BuildConfig(threads=1)
    )
    with np.load(source.parent / INPUTS) as told, backend.load(engine, BuildConfig(threads=1)) as r:
        key = "head" if source.stem.startswith("head") else "fp32"
        x, expected = told[f"{key}_x"], told[key]
        rows = [r.infer({r.inputs[0].name: image[None]})[r.outputs[0].name] for image in x]
    answers = np.concatenate(rows).astype(np.float32)
    found = inspect(engine.path, source=source).coverage
    noise = sqnr_db(expected, answers)
    return {
        "samples": len(x),
        "sqnr_db": round(noise, 1) if np.isfinite(noise) else None,
        "top1_agreement": float((answers.argmax(1) == expected.argmax(1)).mean()),
        "int8_coverage": round(found.int8_coverage, 3),
        "float_layers": len(found.float_layers),
    }


def measure(folder: Path, place: Path, chosen: Sequence[str] = ()) -> dict[str, Any]:
    """The chosen Q/DQ and FP32 files of one network, or all, and what the probe says of the CPU."""
    machine = describe_environment()
    told: dict[str, Any] = {
        "cpu": machine.machine,
        "isa": list(machine.isa),
        "int8_instructions": machine.int8_instructions,
        "probe": {},
        "engines": {},
    }
    for name in BACKENDS:
        rules = get_backend(name).qdq_rules("cpu")
        told["probe"][name] = {
            "saturating": rules.saturating,
            "wrong_lowest_weight": rules.wrong_lowest_weight,
        }
    for source in sorted(folder.glob("*.onnx")):
        if chosen and source.stem not in chosen:
            continue
        backend = source.stem.split("-")[1]
        for name in BACKENDS if backend == "any" else (backend,):
            row = f"{folder.name}/{source.stem}/{name}"
            try:
                told["engines"][row] = run_file(source, name, place / name)
            except EdgeResError as error:
                told["engines"][row] = {"error": str(error)}
            print(row, told["engines"][row], file=sys.stderr, flush=True)
    return told


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])))
