"""What an INT8 file is worth on a real engine: answers, its share of multiply-adds, its time.

The share is counted from what the engine says that it ran, not from the file, and in the same way
for every tool.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Infer = Callable[[NDArray[Any]], NDArray[np.float32]]
ENGINES = ("onnxruntime", "openvino")
#: INT8 operators and which of their inputs is the weight.
_INT8_WEIGHT = {
    "QLinearConv": 3,
    "QGemm": 3,
    "QLinearMatMul": 3,
    "ConvInteger": 1,
    "MatMulInteger": 1,
    "MatMulIntegerToFloat": 1,
    "DynamicQuantizeMatMul": 1,
}
_MULTIPLYING = ("Conv", "Gemm", "MatMul", "ConvTranspose", "FusedMatMul", "FusedGemm", "FusedConv")
_PLUGIN_MULTIPLYING = ("Convolution", "FullyConnected", "MatMul", "Deconvolution")


def open_engine(engine: str, file: Path) -> Infer:
    """A file in an engine on one thread, with the same options for every tool."""
    if engine == "onnxruntime":
        session = _session(file)
        name = session.get_inputs()[0].name
        return lambda images: np.asarray(session.run(None, {name: images})[0])
    request = _compiled(file).create_infer_request()
    return lambda images: np.array(request.infer([images])[0])


def _session(file: Path, profile: Path | None = None) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
        # Weights keep their ONNX shapes; what is fused into INT8 is the same.
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.add_session_config_entry("session.disable_prepacking", "1")
    return ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def _compiled(file: Path, **further: Any) -> Any:
    import openvino as ov

    # Without the last hint OpenVINO runs what is float in bf16 where the CPU has it.
    hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": 1,
             "INFERENCE_PRECISION_HINT": "f32"}  # fmt: skip
    return ov.Core().compile_model(str(file), "CPU", hints | further)


def int8_share(engine: str, file: Path, images: NDArray[Any], folder: Path) -> float:
    """Share of the multiply-adds, in [0, 1], that an engine runs in INT8 on ``(N, ...)`` images."""
    if engine == "onnxruntime":
        counted = _multiplied_by_session(file, images, folder)
    else:
        counted = _multiplied_by_plugin(file, images)
    return counted[0] / max(sum(counted), 1)


def _multiplied_by_session(file: Path, images: NDArray[Any], folder: Path) -> tuple[int, int]:
    session = _session(file, folder / "profile")
    session.run(None, {session.get_inputs()[0].name: images})
    profile = Path(session.end_profiling())
    events = json.loads(profile.read_text())
    profile.unlink()
    integers = floats = 0
    for event in events:
        if event.get("cat") != "Node" or not event["name"].endswith("_kernel_time"):
            continue
        told = event["args"]
        op = told["op_name"]
        if op in _INT8_WEIGHT:
            integers += _macs(told, op, _INT8_WEIGHT[op])
        elif op in _MULTIPLYING:
            floats += _macs(told, op, 1)
    return integers, floats


def _macs(told: dict[str, Any], op: str, weight: int) -> int:
    shapes: list[list[int]] = [next(iter(each.values()), []) for each in told["input_type_shape"]]
    (output,) = [next(iter(each.values())) for each in told["output_type_shape"][:1]]
    if "Conv" in op:
        return int(np.prod(output)) * int(np.prod(shapes[weight][1:]))
    return int(np.prod(output)) * int(shapes[0][-1])


def _multiplied_by_plugin(file: Path, images: NDArray[Any]) -> tuple[int, int]:
    import openvino as ov

    core = ov.Core()
    model = core.read_model(str(file))
    model.reshape({model.inputs[0]: list(images.shape)})
    hints = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    runtime = core.compile_model(model, "CPU", hints).get_runtime_model()
    integers = floats = 0
    for operation in runtime.get_ordered_ops():
        facts = operation.get_rt_info()
        told = {key: str(facts[key].astype(str)) for key in ("layerType", "runtimePrecision")
                if key in facts}  # fmt: skip
        if told.get("layerType") not in _PLUGIN_MULTIPLYING:
            continue
        output = [int(size) for size in operation.get_output_shape(0)]
        inside = [int(size) for size in operation.get_input_shape(0)]
        weight = [int(size) for size in operation.get_input_shape(1)]
        if told["layerType"] == "Convolution":
            macs = output[0] * int(np.prod(output[2:])) * int(np.prod(weight))
        else:
            macs = int(np.prod(output)) * inside[-1]
        if told["runtimePrecision"] in ("u8", "i8"):
            integers += macs
        else:
            floats += macs
    return integers, floats


def sqnr_db(wanted: NDArray[Any], found: NDArray[Any]) -> float:
    """Signal over noise in dB; the signal is what differs from image to image.

    A network with random weights answers mostly the same for all images. That part of the answer
    says nothing about them and does not count.
    """
    signal = wanted.astype(np.float64)
    noise = float(np.square(signal - found).sum())
    signal = signal - signal.mean(axis=0)
    return float(10 * np.log10(float(np.square(signal).sum()) / max(noise, 1e-30)))


def gain_quartiles(
    wanted: NDArray[Any], ours: NDArray[Any], theirs: NDArray[Any]
) -> tuple[float, float, float]:
    """Quartiles over images of how many dB less noise our answers have than another tool's.

    The SQNR of all images together is that of the few with the most noise; this is of most images.
    """
    noise = [np.square(wanted.astype(np.float64) - found).sum(axis=1) for found in (ours, theirs)]
    mine, other = (np.maximum(each, 1e-30) for each in noise)
    first, middle, last = np.quantile(10 * np.log10(other / mine), [0.25, 0.5, 0.75])
    return round(float(first), 2), round(float(middle), 2), round(float(last), 2)


def in_turns(
    running: dict[str, Infer], images: NDArray[Any], seconds: float
) -> dict[str, list[float]]:
    """CPU seconds of each run of every file, in turns of random order; 12 rounds at least.

    On one thread CPU time is what a run takes, whoever else is on the machine.
    """
    for infer in running.values():
        infer(images)
    times: dict[str, list[float]] = {name: [] for name in running}
    shuffled, order = random.Random(0), list(running)
    end = time.monotonic() + seconds
    while time.monotonic() < end or len(next(iter(times.values()))) < 12:
        shuffled.shuffle(order)
        for name in order:
            infer = running[name]
            infer(images)  # the one before left the caches to another model
            started = time.process_time()
            infer(images)
            times[name].append(time.process_time() - started)
    return times


def ratio(slow: list[float], fast: list[float]) -> list[float]:
    """How many times faster, round by round: lower quartile, median, upper quartile."""
    rounds = np.array(slow) / np.array(fast)
    return [round(float(each), 3) for each in np.percentile(rounds, (25, 50, 75))]
