"""Named architectures through edgeres, ONNX Runtime's quantizer and NNCF, on real engines.

    python benchmarks/zoo.py run --work WORK --out benchmarks/results/zoo.json
    python benchmarks/zoo.py run --work WORK --out ... --name resnest26d --again
    python benchmarks/zoo.py table --out benchmarks/results/zoo.json

For each architecture: whether each tool makes a file and each engine runs it, or why not; the share
of multiply-adds that run in INT8; the signal over quantization noise of the answers; how many times
faster than FP32 it is by the least times of runs in turns, on one thread, batch 1. The result file
is written after each architecture, so a run goes on where it was stopped. Peers get the exported
file as it is, edgeres imports it first. `--lock FILE` holds that file's lock during each
architecture, for machines that others measure on as well.

Needs `pip install nncf scikit-image scikit-learn` and `pip install --no-deps timm torchvision`; for
the trained files see `subjects.py`.
"""

from __future__ import annotations

import argparse
import fcntl
import importlib
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import zoo_engines as engines
from quantizers import TOOLS, Job
from subjects import SUBJECTS, Subject, open_subject
from zoo_networks import (
    CALIBRATION,
    FAMILIES,
    GARMENTS,
    MORE_CALIBRATION,
    MORE_TEST,
    TEST,
    TRAINED,
    declare_operators,
    make_subject,
    names,
    open_garments,
    open_normalized,
)
from zoo_table import table

from edgeres.system.environment import describe_environment

#: Tools, and the engines on which their files are looked at.
COMPARED = {
    "edgeres": ("onnxruntime", "openvino"),
    "ort-minmax-u8s8": ("onnxruntime", "openvino"),
    "nncf-openvino": ("openvino",),
}
SECONDS = 0.7
LONGEST = 1800


def judge(name: str, work: Path, folder: Path) -> dict[str, Any]:
    """Everything about one architecture; in a process of its own."""
    started = time.process_time()
    if name.startswith(GARMENTS):
        subject = open_garments(name, work)
    elif name in SUBJECTS:
        subject = open_subject(name, work)
    else:
        subject = make_subject(name, folder / "raw")
    row: dict[str, Any] = {"tools": {}, "megabytes": round(subject.fp32.stat().st_size / 1e6, 1)}
    shown, tested = (CALIBRATION, TEST) if name not in TRAINED else (MORE_CALIBRATION, MORE_TEST)
    images = np.concatenate(list(subject.batches("test", 8, min(tested, subject.count("test")))))
    made = {tool: _make(tool, subject, folder, shown) for tool in COMPARED}
    for tool, (files, told) in made.items():
        row["tools"][tool] = told if files is None else {**told, "engines": {}}
    for engine in engines.ENGINES:
        running = {"fp32": engines.open_engine(engine, subject.fp32)}
        wanted = _answers(running["fp32"], images)
        answers: dict[str, Any] = {}
        for tool, (files, _) in made.items():
            file = None if files is None else files.get(engine) or files.get("both")
            if file is None or engine not in COMPARED[tool]:
                continue
            told = row["tools"][tool]["engines"].setdefault(engine, {})
            try:
                running[tool] = engines.open_engine(engine, file)
                answers[tool] = _answers(running[tool], images)
                told["sqnr_db"] = round(engines.sqnr_db(wanted, answers[tool]), 2)
                if tool != "edgeres" and "edgeres" in answers:
                    quartiles = engines.gain_quartiles(wanted, answers["edgeres"], answers[tool])
                    told["edgeres_gain_db_quartiles"] = quartiles
                told["int8"] = round(engines.int8_share(engine, file, images[:1], folder), 4)
            except Exception as error:  # whatever a vendor raises is why the file does not run
                running.pop(tool, None)
                told["failed"] = _line(error)
        times = engines.in_turns(running, images[:1], SECONDS)
        least = {tool: min(values) for tool, values in times.items()}
        row.setdefault("fp32_ms", {})[engine] = round(least["fp32"] * 1e3, 3)
        for tool, values in times.items():
            if tool != "fp32":
                told = row["tools"][tool]["engines"][engine]
                told["speedup"] = round(least["fp32"] / least[tool], 3)
                told["speedup_quartiles"] = engines.ratio(times["fp32"], values)
                if "edgeres" in times:
                    told["over_edgeres"] = round(least[tool] / least["edgeres"], 3)
                    told["over_edgeres_quartiles"] = engines.ratio(values, times["edgeres"])
    row["cpu_seconds"] = round(time.process_time() - started, 1)
    return row


def _make(
    tool: str, subject: Subject, folder: Path, shown: int
) -> tuple[dict[str, Path] | None, dict[str, Any]]:
    out = folder / tool
    out.mkdir(parents=True, exist_ok=True)
    started = time.process_time()
    told: dict[str, Any] = {}
    try:
        if tool == "edgeres":
            from edgeres.exporting.import_onnx import import_onnx

            source = subject.fp32
            subject = open_normalized(subject, out / "normalized")
            images = next(subject.batches("test", 4))
            layout: Any = "nhwc" if subject.channels_last else "nchw"
            made = import_onnx(source, subject.fp32, layout=layout, images=images)
            told["notes"] = list(made.notes)
        files = TOOLS[tool](Job(subject, out, min(shown, subject.count("calibration"))))
        if tool == "edgeres":
            told["contradictions"] = _contradictions(subject, files, out)
    except Exception as error:  # each tool has errors of its own; which is part of the result
        return None, {"failed": _line(error)}
    told["cpu_seconds"] = round(time.process_time() - started, 1)
    return {engine: out / file for engine, file in files.items()}, told


def _contradictions(subject: Subject, files: dict[str, str], out: Path) -> dict[str, list[str]]:
    """Layers whose precision the account of a Q/DQ file tells otherwise than the engine."""
    from edgeres.backends import get_backend
    from edgeres.backends.base import BuildConfig
    from edgeres.evaluation.coverage import int8_coverage, layers_by_node, node_precision
    from edgeres.graph.layers import load_model
    from edgeres.graph.summary import node_macs
    from edgeres.quantization.placement import place

    found: dict[str, list[str]] = {}
    graph = load_model(subject.fp32).graph
    for name, file in files.items():
        backend = get_backend(name)
        target = out / name / f"engine{backend.engine_suffix}"
        target.parent.mkdir(exist_ok=True)
        engine = backend.build(out / file, target, BuildConfig(threads=1))
        layers = backend.layers(engine)
        placed = place(graph, backend.qdq_rules("cpu"))
        ran = {node: node_precision(each) for node, each in layers_by_node(layers).items()}
        macs = node_macs(subject.fp32)
        coverage = int8_coverage(macs, layers)
        in_float = {layer.name: layer.reason for layer in coverage.float_layers}
        texts = [f"{n}: said INT8, {in_float[n]}" for n in placed.quantized_nodes if n in in_float]
        texts += [f"{n}: said float, ran in INT8" for n in placed.float_nodes
                  if ran.get(n) in ("int8", "uint8")]  # fmt: skip
        if texts:
            found[name] = texts
    return found


def _answers(infer: engines.Infer, images: Any) -> Any:
    parts = [infer(images[start : start + 4]) for start in range(0, len(images), 4)]
    return np.concatenate(parts)


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return f"{type(error).__name__}: {text[:300]}"


@contextmanager
def _turn(lock: Path | None) -> Iterator[None]:
    if lock is None:
        yield
        return
    with lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def run(arguments: argparse.Namespace) -> None:
    """Judges every architecture that has no row yet, each in a forked process."""
    out: Path = arguments.out
    told = json.loads(out.read_text()) if out.exists() else {"rows": {}}
    _import_all()
    for name in arguments.name or _mixed(FAMILIES):
        if name in told["rows"] and not arguments.again:
            continue
        with _turn(arguments.lock), tempfile.TemporaryDirectory(dir=arguments.work) as folder:
            row = _in_child(name, arguments.work, Path(folder))
        told = _add_row(out, name, row)
        print(name, json.dumps(row), flush=True)


def _add_row(out: Path, name: str, row: dict[str, Any]) -> dict[str, Any]:
    """Adds one row to the result file, to which several runs may write."""
    with _turn(out.with_suffix(".lock")):
        told = json.loads(out.read_text()) if out.exists() else {"rows": {}}
        rows = told["rows"] | {name: row}
        told = {"environment": describe_environment().to_dict(), "rows": {}}
        told["rows"] = {each: rows[each] for each in names() if each in rows}
        out.write_text(json.dumps(told, indent=1) + "\n")
    return told


def _mixed(families: dict[str, tuple[str, ...]]) -> list[str]:
    """One of each family after the other, so that a run that was stopped has seen them all."""
    return [name for turn in zip_longest(*families.values()) for name in turn if name is not None]


def _import_all() -> None:
    """Imports once what every architecture needs; nothing may have run before the first fork."""
    for module in ("torch", "onnxruntime.quantization", "openvino", "nncf", "nncf.onnx"):
        importlib.import_module(module)
    for module in ("exporting.import_onnx", "quantization.quantize", "quantization.calibrate",
                   "quantization.activation_trial", "backends.probe", "evaluation.coverage",
                   "backends.onnxruntime.backend", "backends.openvino.backend"):  # fmt: skip
        importlib.import_module(f"edgeres.{module}")
    declare_operators()
    importlib.import_module("timm")


def _in_child(name: str, work: Path, folder: Path) -> dict[str, Any]:
    answer = folder / "row.json"
    child = multiprocessing.get_context("fork").Process(
        target=_write_row, args=(name, work, folder, answer)
    )
    child.start()
    child.join(LONGEST)
    if child.is_alive():
        child.kill()
        child.join()
        return {"failed": f"not done after {LONGEST} s"}
    if child.exitcode or not answer.exists():
        return {"failed": f"the process ended with {child.exitcode}"}
    return dict(json.loads(answer.read_text()))


def _write_row(name: str, work: Path, folder: Path, answer: Path) -> None:
    import torch

    torch.set_num_threads(1)
    cpus = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cpus[os.getpid() % len(cpus)]})  # no tool's threads wait for others
    try:
        row = judge(name, work, folder)
    except Exception as error:
        row = {"failed": _line(error)}
    answer.write_text(json.dumps(row))


def main() -> None:
    """Parses arguments and runs one step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("step", choices=("run", "table"))
    parser.add_argument("--work", type=Path, default=Path("zoo-benchmark"))
    parser.add_argument("--out", type=Path, default=Path("zoo.json"))
    parser.add_argument("--name", action="append", help="One architecture; several may be given.")
    parser.add_argument("--again", action="store_true", help="Also those that have a row.")
    parser.add_argument("--lock", type=Path, help="A file whose lock is held during each.")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    if arguments.step == "run":
        run(arguments)
    else:
        print(table(json.loads(arguments.out.read_text())["rows"], FAMILIES))


if __name__ == "__main__":
    main()
