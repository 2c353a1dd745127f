"""The output folder of ``edgeres convert``: every file name in it, once.

OUTPUT/report.json               what was found
OUTPUT/baseline/                 the FP32 network that came in, and what was made with it
OUTPUT/pruned/                   the pruned network, where there is one
OUTPUT/TARGET/                   an engine, its Q/DQ file and what is known of it
OUTPUT/evidence/                 what the report page shows
OUTPUT/module.onnx               a torch module that a program handed over, as ONNX
OUTPUT/.stages/                  stored results of stages
"""

from __future__ import annotations

from pathlib import Path

REPORT = "report.json"
STAGES = ".stages"
HISTORY = "history.sqlite"
EVIDENCE = "evidence"
HANDED = "module.onnx"

BASELINE = "baseline"
PRUNED = "pruned"
MODEL = "model.onnx"
FED = "model.uint8.onnx"
"""The FP32 network with an input of bytes, where engines have one."""
EQUALIZED = "equalized.onnx"
PREDICTIONS = "predictions.npz"
TABLE = "calibration_table.json"
PREPROCESS = "preprocess.json"
TASK = "task.json"
SAMPLES = "samples"

QDQ = "model.qdq.onnx"
QDQ_ACCOUNT = "model.qdq.json"
MIXED_PRECISION = "mixed_precision.json"

QUANTIZED = (f"{BASELINE}/{EQUALIZED}", f"{PRUNED}/{MODEL}", f"{BASELINE}/{MODEL}")
"""FP32 networks in the folder; the first that is there is the one that was quantized."""


def run_of(file: Path) -> Path:
    """The output folder of an engine, or of the Q/DQ file beside it, at ``OUTPUT/TARGET/FILE``."""
    return file.resolve().parent.parent
