"""The quantizers that the benchmark compares, one function each, run in a process of its own.

    python benchmarks/quantizers.py TOOL SUBJECT_FOLDER OUT_FOLDER

prints `{"seconds": ..., "peak_rss_bytes": ..., "images": ..., "files": {engine: file}}`. Seconds
go from the FP32 file and the images on disk to the INT8 file on disk, imports aside. A file named
for `both` runs on both engines. Only the tools are imported that are asked for.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import logging
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from subjects import Subject

Files = dict[str, str]
ENGINES = ("onnxruntime", "openvino")


@dataclass(frozen=True)
class Job:
    """What a tool is to do.

    Attributes:
        subject: Network and images.
        out: Folder of the INT8 files.
        images: Number of calibration images.
    """

    subject: Subject
    out: Path
    images: int

    def batches(self) -> Iterator[Any]:
        """Preprocessed calibration images, 64 of 28 x 28 or 2 of 224 x 224 at a time."""
        size = 2 if self.subject.large else 64
        return self.subject.batches("calibration", size, self.images)


Tool = Callable[[Job], Files]


def bare(job: Job) -> Files:
    """The FP32 forward passes alone: the floor of any calibration."""
    import onnxruntime as ort

    session = ort.InferenceSession(str(job.subject.fp32), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    for batch in job.batches():
        session.run(None, {name: batch})
    return {}


def edgeres_tool(
    calibrator: str = "output", engines: tuple[str, ...] = ENGINES, **changes: Any
) -> Tool:
    """Edgeres, one file an engine from one calibration."""

    def run(job: Job) -> Files:
        from edgeres.backends import get_backend
        from edgeres.quantization.calibrate import calibrate
        from edgeres.quantization.quantize import quantize
        from edgeres.recipe.quantize import QuantizeSettings

        images = job.batches()
        table = calibrate(job.subject.fp32, images, calibrator=calibrator)
        settings = QuantizeSettings(calibrator=calibrator, **changes)
        files = {}
        for name in engines:
            rules = get_backend(name).qdq_rules("cpu")
            files[name] = f"{name}.onnx"
            quantize(job.subject.fp32, table, rules, job.out / files[name], settings)
        return files

    return run


def edgeres_portable(job: Job) -> Files:
    """Edgeres, the one file that every backend accepts."""
    from edgeres.backends.target import rules_of
    from edgeres.quantization.calibrate import calibrate
    from edgeres.quantization.quantize import quantize

    table = calibrate(job.subject.fp32, job.batches())
    quantize(job.subject.fp32, table, rules_of("portable"), job.out / "both.onnx")
    return {"both": "both.onnx"}


def ort_tool(method: str, activation: str, weight: str, *, reduce_range: bool = False) -> Tool:
    """ONNX Runtime's `quantize_static`, QDQ, per channel, after its own pre-processing."""

    def run(job: Job) -> Files:
        from onnxruntime.quantization import (
            CalibrationDataReader,
            CalibrationMethod,
            QuantFormat,
            QuantType,
            quantize_static,
        )
        from onnxruntime.quantization.shape_inference import quant_pre_process

        class Reader(CalibrationDataReader):  # type: ignore[misc]
            def __init__(self) -> None:
                import onnx

                self.name = onnx.load(job.subject.fp32).graph.input[0].name
                self.left = job.batches()

            def get_next(self) -> Any:
                batch = next(self.left, None)
                return None if batch is None else {self.name: batch}

        types = {"u8": QuantType.QUInt8, "s8": QuantType.QInt8}
        source, prepared = job.subject.fp32.resolve(), (job.out / "prepared.onnx").resolve()
        with contextlib.chdir(job.out):  # where it fails it leaves its files wherever it runs
            quant_pre_process(str(source), str(prepared))
        quantize_static(
            str(job.out / "prepared.onnx"),
            str(job.out / "both.onnx"),
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=reduce_range,
            activation_type=types[activation],
            weight_type=types[weight],
            calibrate_method=getattr(CalibrationMethod, method),
        )
        return {"both": "both.onnx"}

    return run


def nncf_onnx(*, mixed: bool = False, fast_bias_correction: bool = True) -> Tool:
    """NNCF's post-training quantization of the ONNX model."""

    def run(job: Job) -> Files:
        import onnx

        model = onnx.load(job.subject.fp32)
        name = model.graph.input[0].name
        quantized = _nncf(job, model, lambda batch: {name: batch}, mixed, fast_bias_correction)
        onnx.save(quantized, job.out / "both.onnx")
        return {"both": "both.onnx"}

    return run


def nncf_openvino(*, mixed: bool = False, fast_bias_correction: bool = True) -> Tool:
    """NNCF's post-training quantization of the OpenVINO model."""

    def run(job: Job) -> Files:
        import openvino as ov

        model = ov.Core().read_model(job.subject.fp32)
        quantized = _nncf(job, model, lambda batch: batch, mixed, fast_bias_correction)
        ov.save_model(quantized, job.out / "openvino.xml", compress_to_fp16=False)
        return {"openvino": "openvino.xml"}

    return run


def _nncf(
    job: Job,
    model: Any,
    feed: Callable[[Any], Any],
    mixed: bool,
    fast_bias_correction: bool,
) -> Any:
    import nncf

    nncf.set_log_level(logging.ERROR)
    return nncf.quantize(
        model,
        nncf.Dataset(_Replayable(job), feed),
        preset=nncf.QuantizationPreset.MIXED if mixed else nncf.QuantizationPreset.PERFORMANCE,
        target_device=nncf.TargetDevice.CPU,
        subset_size=job.images,
        fast_bias_correction=fast_bias_correction,
    )


class _Replayable:
    """Images one by one, from the start for every pass: bias correction takes several."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def __iter__(self) -> Iterator[Any]:
        return self._job.subject.batches("calibration", 1, self._job.images)


TOOLS: dict[str, Tool] = {
    "bare": bare,
    "edgeres": edgeres_tool(),
    "edgeres-midway": edgeres_tool("midway"),
    "edgeres-minmax": edgeres_tool("minmax"),
    "edgeres-percentile": edgeres_tool("percentile"),
    "edgeres-mse": edgeres_tool("mse"),
    "edgeres-one-engine": edgeres_tool(engines=("onnxruntime",)),
    "edgeres-safe": edgeres_tool(saturation_safe="on"),
    "edgeres-full-range": edgeres_tool(saturation_safe="off"),
    "edgeres-portable": edgeres_portable,
    "ort-minmax-u8s8": ort_tool("MinMax", "u8", "s8"),
    "ort-entropy-u8s8": ort_tool("Entropy", "u8", "s8"),
    "ort-percentile-u8s8": ort_tool("Percentile", "u8", "s8"),
    "ort-minmax-u8s7": ort_tool("MinMax", "u8", "s8", reduce_range=True),
    "ort-minmax-u8u8": ort_tool("MinMax", "u8", "u8"),
    "ort-minmax-s8s8": ort_tool("MinMax", "s8", "s8"),
    "nncf-onnx": nncf_onnx(),
    "nncf-onnx-mixed": nncf_onnx(mixed=True),
    "nncf-onnx-slow-bc": nncf_onnx(fast_bias_correction=False),
    "nncf-openvino": nncf_openvino(),
    "nncf-openvino-mixed": nncf_openvino(mixed=True),
    "nncf-openvino-slow-bc": nncf_openvino(fast_bias_correction=False),
}


def main() -> None:
    """Runs one tool once and prints what it took."""
    parser = argparse.ArgumentParser(description="Runs one quantizer once.")
    parser.add_argument("tool", choices=TOOLS)
    parser.add_argument("subject", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--images", type=int, default=512)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    subject = Subject(**json.loads((arguments.subject / "subject.json").read_text()))
    arguments.out.mkdir(parents=True, exist_ok=True)
    job = Job(subject, arguments.out, arguments.images)
    _import_first(arguments.tool)
    started = time.monotonic()
    files = TOOLS[arguments.tool](job)
    told = {
        "seconds": time.monotonic() - started,
        "peak_rss_bytes": _peak_bytes(),
        "images": arguments.images,
        "files": files,
    }
    print(json.dumps(told))


def _peak_bytes() -> int:
    """Peak resident memory of this process; ``ru_maxrss`` can be that of the one that began it."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def _import_first(tool: str) -> None:
    """Imports what the tool imports, so that its seconds hold none of it."""
    modules = {
        "bare": ["onnxruntime"],
        "edgeres": ["edgeres.quantization.calibrate", "edgeres.quantization.quantize"],
        "ort": ["onnxruntime.quantization", "onnxruntime.quantization.shape_inference"],
        "nncf": ["nncf", "nncf.onnx", "onnx", "openvino", "onnxruntime"],
    }
    if tool.startswith("edgeres"):  # the engines that it asks whether they saturate
        modules["edgeres"] += ENGINES[:1] if tool == "edgeres-one-engine" else ENGINES
    for module in modules[tool.split("-", maxsplit=1)[0]]:
        importlib.import_module(module)


if __name__ == "__main__":
    main()
