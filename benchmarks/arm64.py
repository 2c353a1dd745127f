"""What engines answer on Arm CPUs, by emulation: accuracy, INT8 coverage, probes, exit codes.

    python scripts/arm64                                # once: makes the emulated environment
    python benchmarks/arm64.py --out benchmarks/results/arm64.json

Networks are quantized on this machine: for each backend with safe and with plain weights, for ONNX
Runtime with int8 activations as well (``signed``), for OpenVINO with Q/DQ on both inputs of an Add
(``both``). The same files run here and on each emulated CPU against the FP32 logits of this
machine. Times are not in it: under emulation they say nothing. Needs what `subjects.py` needs for
the network of 224x224.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from arm64_commands import exit_codes
from subjects import Subject, open_subject

from edgeres.backends import get_backend
from edgeres.backends.activations import with_activations
from edgeres.quantization.calibrate import calibrate
from edgeres.quantization.quantize import quantize
from edgeres.system.environment import package_versions

ENGINES = Path(__file__).with_name("arm64_engines.py")
SCRIPTS = Path(__file__).parents[1] / "scripts" / "arm64"
WEIGHTS = ("plain", "safe")
BACKENDS = ("onnxruntime", "openvino")
CALIBRATION = 64
IMAGES = {"resnet20": 16, "nsfw": 2}
PARTS = ("engines", "commands")


def prepare(subject: Subject, folder: Path, images: int) -> None:
    """Writes the FP32 and Q/DQ files of one network, its inputs and its FP32 logits."""
    folder.mkdir()
    onnx.save(onnx.load(subject.fp32), folder / "fp32-any.onnx")
    batches = list(subject.batches("calibration", 16, CALIBRATION))
    table = calibrate(subject.fp32, batches)
    for name in BACKENDS:
        rules = get_backend(name).qdq_rules("cpu")
        for weights in WEIGHTS:
            wanted = replace(rules, saturating=weights == "safe", name=f"{name}-{weights}")
            quantize(subject.fp32, table, wanted, folder / f"{weights}-{name}.onnx")
        if name == "openvino":
            both = replace(rules, residual="both", saturating=False)
            quantize(subject.fp32, table, both, folder / f"both-{name}.onnx")
        if "int8" in rules.other_activations:
            signed = replace(with_activations(rules, "int8"), saturating=False)
            quantize(subject.fp32, table, signed, folder / f"signed-{name}.onnx")
    x = np.concatenate(list(subject.batches("test", 16, images)))
    told = {"x": x, "fp32_x": x, "fp32": logits(subject.fp32, x)}
    if subject.name == "resnet20":
        told |= head(folder, x)
    np.savez(folder / "inputs.npz", **told)


def head(folder: Path, x: np.ndarray[Any, Any]) -> dict[str, Any]:
    """The fully connected layer alone, as ``head-openvino.onnx``, with its inputs and answers."""
    model = onnx.load(folder / "plain-openvino.onnx")
    last = next(node for node in reversed(model.graph.node) if node.op_type == "Gemm")
    feeder = next(n for n in model.graph.node if n.output[0] == last.input[0])
    quantizer = next(n for n in model.graph.node if n.output[0] == feeder.input[0])
    while quantizer.op_type != "QuantizeLinear":  # a Flatten between the pair
        quantizer = next(n for n in model.graph.node if n.output[0] == quantizer.input[0])
    cut, outputs = quantizer.input[0], [value.name for value in model.graph.output]
    file = folder / "head-openvino.onnx"
    onnx.utils.extract_model(str(folder / "plain-openvino.onnx"), str(file), [cut], outputs)
    features = logits(folder / "plain-openvino.onnx", x, inner=cut)
    return {"head_x": features, "head": logits(file, features)}


def logits(file: Path, x: np.ndarray[Any, Any], *, inner: str = "") -> Any:
    """Answers of a file in float: its Q and DQ are computed one by one, with no INT8 kernel."""
    import onnxruntime

    model = onnx.load(file)
    if inner:
        model.graph.output.append(onnx.ValueInfoProto(name=inner))
    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), settings, providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name
    return session.run([inner] if inner else None, {name: x})[0]


def main() -> None:
    """Prepares here, measures here and on each emulated CPU, writes the JSON."""
    sys.path.insert(0, str(SCRIPTS))
    emulated, cpus = importlib.import_module("emulated"), importlib.import_module("cpus").CPUS
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--environment", type=Path, default=emulated.default_folder())
    parser.add_argument("--subject", action="append", choices=sorted(IMAGES))
    parser.add_argument("--cpu", action="append", choices=sorted(cpus))
    parser.add_argument("--part", action="append", choices=PARTS, help="all if left out")
    parser.add_argument("--work", type=Path, help="keeps the networks here")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    if reason := emulated.missing(arguments.environment):
        parser.error(reason)
    chosen = arguments.cpu or list(cpus)
    told = started(arguments.out, arguments.environment)
    with tempfile.TemporaryDirectory() as temporary:
        work, parts = Path(temporary), arguments.part or PARTS
        for name in (arguments.subject or IMAGES) if "engines" in parts else ():
            subject = open_subject(name, arguments.work or work / "subjects")
            prepare(subject, work / name, IMAGES[name])
            for cpu in ("x86", *chosen):
                rows = told["cpus"].setdefault(cpu, {"engines": {}})["engines"]
                files = [p.stem for p in (work / name).glob("*.onnx")]
                known = {row.split("/")[1] for row in rows if row.startswith(f"{name}/")}
                if missing := sorted(set(files) - known):
                    place = work / "engines" / cpu / name
                    command = [str(ENGINES), str(work / name), str(place), *missing]
                    found = answer(command, cpu, arguments.environment, work)
                    told["cpus"][cpu] = found | {"engines": rows | found["engines"]}
                    keep(told, arguments.out)
        if "commands" in parts:
            exit_codes(
                arguments.environment,
                chosen,
                work,
                told.setdefault("exit_codes", {}),
                lambda: keep(told, arguments.out),
            )


def started(out: Path, environment: Path) -> dict[str, Any]:
    """What an earlier run with the same versions measured, so that this one goes on; or nothing."""
    versions = {
        "here": package_versions(),
        "emulated": json.loads((environment / "made.json").read_text())["versions"],
    }
    told: dict[str, Any] = json.loads(out.read_text()) if out.is_file() else {}
    if told.get("versions") == versions:
        return told | {"images": IMAGES}
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": versions,
        "emulator": "qemu user mode; function and numbers, not times",
        "images": IMAGES,
        "cpus": {},
    }


def keep(told: dict[str, Any], out: Path) -> None:
    """Writes what is known so far."""
    out.write_text(json.dumps(told, indent=1) + "\n")


def answer(command: list[str], cpu: str, environment: Path, work: Path) -> dict[str, Any]:
    """What `arm64_engines.py` says on one CPU.

    Raises:
        SystemExit: It failed.
    """
    if cpu == "x86":
        done = subprocess.run(
            [sys.executable, *command], capture_output=True, text=True, check=False
        )
    else:
        emulated = importlib.import_module("emulated")
        done = emulated.run_python(environment, cpu, command, cwd=work, seconds=7200)
    print(done.stderr, file=sys.stderr, flush=True)
    if done.returncode:
        raise SystemExit(f"{command[0]} failed on {cpu}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


if __name__ == "__main__":
    main()
