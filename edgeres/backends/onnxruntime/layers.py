"""The layers of an ONNX Runtime engine, from the profile of kernels that really ran."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeres.backends._onnx_origin import origins, read_nodes
from edgeres.backends._runner import zero_feeds
from edgeres.backends.base import LayerInfo

if TYPE_CHECKING:
    from edgeres.backends.onnxruntime.backend import OnnxRuntimeRunner

RUNS = 5
_KERNEL = "_kernel_time"
_INT8_OPS = frozenset(
    {
        "QGemm",
        "QAttention",
        "ConvInteger",
        "MatMulInteger",
        "MatMulIntegerToFloat",
        "DynamicQuantizeMatMul",
    }
)
# Providers that run one kernel a node.
_TELLING = ("CPUExecutionProvider", "CUDAExecutionProvider")
_PRECISIONS = {"float": "float32", "double": "float64", "uint8": "int8"}


def profiled_layers(path: Path, runner: OnnxRuntimeRunner, provider: str) -> list[LayerInfo]:
    """Runs an engine a few times under the profiler and lists its kernels as they ran.

    Args:
        path: The engine's ONNX file.
        runner: A runner of it whose session was made with profiling on.
        provider: Where it was to run; kernels elsewhere have the other's name behind their op.

    Raises:
        ModelError: An input has a dynamic size apart from the batch.
    """
    feeds = zero_feeds(runner.inputs)
    for _ in range(RUNS):
        runner.infer(feeds)
    events = json.loads(runner.end_profile().read_text(encoding="utf-8"))
    return _read(events, path, provider)


def _read(events: list[dict[str, Any]], path: Path, provider: str) -> list[LayerInfo]:
    kernels: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(_KERNEL):
            kernels.setdefault(event["args"]["node_index"], []).append(event)
    ordered = sorted(kernels.values(), key=lambda runs: runs[-1]["ts"])
    names = [runs[0]["name"].removesuffix(_KERNEL) for runs in ordered]
    return [
        LayerInfo(
            name=name,
            op=_op(runs[0]["args"], provider),
            precision=_precision(runs[0]["args"]),
            nodes=nodes,
            # The shortest run: the others waited for something. Durations are in microseconds.
            time_ms=min(run["dur"] for run in runs) / 1000,
        )
        for name, nodes, runs in zip(names, origins(read_nodes(path), names), ordered, strict=True)
    ]


def _op(arguments: dict[str, Any], provider: str) -> str:
    op, ran_on = str(arguments["op_name"]), arguments.get("provider", provider)
    return op if ran_on == provider else f"{op} on {ran_on}"


def _precision(arguments: dict[str, Any]) -> str:
    """Arithmetic of one kernel: by its op where that says INT8, else by the type it reads.

    Q and DQ compute in float; a kernel that only moves INT8 data counts as INT8. What another
    provider compiled into one kernel does not tell what is inside.
    """
    op = arguments["op_name"]
    if arguments.get("provider") not in _TELLING:
        return "unknown"
    if op.startswith("QLinear") or op in _INT8_OPS:
        return "int8"
    types = arguments["output_type_shape" if op == "DequantizeLinear" else "input_type_shape"]
    kind = next(iter(types[0])) if types else "unknown"
    return _PRECISIONS.get(kind, kind)
