"""Tries what makes a command hang, crash or lie, and counts what it answers.

    python benchmarks/attack.py --out benchmarks/results/attack.json

Each try is one command in a process of its own, in a folder with a good file of each kind and
hostile ones beside them (`attack_files.py`). Right is one of the exit codes that the try names,
within its time, with one line of error, no traceback, no word of a bug of edgeres, and no character
that acts on a terminal. The result file names every try that was answered wrongly.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

SECONDS = 60.0
MAIN = "from edgeres.cli import main; main()"
DATA = ("--data", "npz:images.npz", "--mean", "0.286", "--std", "0.353")
LONG = "x" * 300
_PLACE = re.compile(r"\{0?\}[.a-z]*")


@dataclass(frozen=True)
class Try:
    """One command.

    Attributes:
        name: What is tried.
        words: The command line after ``edgeres``.
        codes: Exit codes that are right.
        seconds: Time within which it must answer.
        stdout: Where its output goes; ``closed`` is a pipe that nobody reads.
    """

    name: str
    words: Sequence[str]
    codes: Sequence[int] = (2, 3)
    seconds: float = SECONDS
    stdout: str = ""
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """What came of a try; ``wrong`` is empty where it was answered rightly."""

    name: str
    code: int
    seconds: float
    wrong: str
    told: str


def tries() -> list[Try]:
    """All tries, in the order in which they are made."""
    return [*_special_files(), *_foreign_content(), *_outputs(), *_streams(), *_hosts()]


def _special_files() -> Iterator[Try]:
    """A FIFO, a device or a folder in place of every file that a command reads."""
    out = ("--output", "made/out")
    reads = {
        "recipe": ("convert", "{}.yaml", *out),
        "model.pt": ("convert", "--model", "{}.pt", *DATA, *out),
        "model.safetensors": ("convert", "--model", "{}.safetensors", *DATA, *out),
        "model.onnx": ("convert", "--model", "{}.onnx", *DATA, *out),
        "weights": ("convert", "--model", "resnet20", "--weights", "{}.pt", *DATA, *out),
        "sample answer": ("convert", "--model", "net.safetensors", "--sample-answer", "{}.npz",
                          *DATA, *out),
        "npz": ("convert", "recipe.yaml", "--data", "npz:{}.npz", *out),
        "idx": ("convert", "recipe.yaml", "--data", "idx:{0}.gz,{0}.gz", *out),
        "list": ("convert", "recipe.yaml", "--data", "list:{}.txt", *out),
        "image folder": ("convert", "recipe.yaml", "--data", "imagefolder:{}", *out),
        "export": ("export", "{}.pt", "--size", "28", *out),
        "prune": ("prune", "{}.pt", *out),
        "train": ("train", "{}.yaml", *out),
        "train start": ("train", "empty", "--start", "{}.pt", *out),
        "quantize": ("quantize", "{}.onnx", *DATA, *out),
        "table": ("quantize", "net.onnx", *DATA, "--table", "{}.json", *out),
        "sensitivity": ("sensitivity", "{}.onnx", "--target", "onnxruntime", *DATA),
        "build": ("build", "{}.onnx", "--target", "onnxruntime", *out),
        "engine": ("inspect", "{}.onnx"),
        "validate": ("validate", "engine.onnx", *DATA, "--baseline", "{}.npz"),
        "conformance": ("validate", "engine.onnx", *DATA, "--baseline", "engine.onnx",
                        "--conformance", "{}.yaml"),
        "compare": ("compare", "{}.onnx", "net.onnx", *DATA),
        "benchmark": ("benchmark", "{}.onnx"),
        "fleet": ("benchmark", "engine.onnx", "--fleet", "{}.yaml"),
        "known hosts": ("benchmark", "engine.onnx", "--device", "ssh://127.0.0.1:1",
                        "--known-hosts", "{}"),
        "identity": ("benchmark", "engine.onnx", "--device", "ssh://127.0.0.1:1",
                     "--known-hosts", "empty", "--identity", "{}"),
        "bundle": ("run", "{}.edgeres", "x.png"),
        "image": ("run", "bundle.edgeres", "{}.png", "--trust"),
        "key": ("run", "bundle.edgeres", "x.png", "--key", "{}"),
        "push": ("push", "{}.edgeres", "127.0.0.1:1/a/b:1", "--plain-http"),
        "report": ("report", "{}"),
        "history": ("report", "folder", "--history-file", "{}"),
        "clean": ("clean", "{}"),
        "labels": ("bundle", "folder", "--labels", "{}.txt"),
    }  # fmt: skip
    for what, words in reads.items():
        yield Try(f"a FIFO as {what}", [word.format("fifo") for word in words], (2, 3, 4), 20)
    for what in ("recipe", "model.pt", "npz", "engine", "bundle", "key", "labels", "known hosts"):
        for place in ("/dev/zero", "/dev/null", "folder"):
            put = [_PLACE.sub(place, word) for word in reads[what]]
            yield Try(f"{place} as {what}", put, (2, 3, 4), 20)


def _foreign_content() -> Iterator[Try]:
    """Files whose form holds and whose content makes no sense."""
    words: tuple[str, ...]
    out = ("--output", "made/out")
    yield Try("a recipe of 50,000 brackets", ("convert", "deep.yaml", *out), (2,))
    yield Try("a recipe with keys that act", ("convert", "keys.yaml", *out), (2,))
    for name in ("sparse", "csr", "meta", "quantized", "complex", "numbers", "list", "names",
                 "nested"):  # fmt: skip
        words = ("export", f"{name}.pt", "--size", "28", *out)
        yield Try(f"a checkpoint of {name}", words, (3,))
    for name in ("deep", "deep-inside", "empty", "list", "null", "nan", "long", "acts", "batch",
                 "huge"):  # fmt: skip
        codes = {"acts": (2, 3), "huge": (0, 3)}.get(name, (3,))
        yield Try(f"a sidecar: {name}", ("inspect", f"sidecar-{name}.onnx"), codes)
    bundles = ("no-samples", "no-classes", "acts", "no-shape", "number", "device", "backend",
               "deep", "deep-e", "deep-x", "empty-e", "empty-x", "null-e", "null-x")  # fmt: skip
    for name in bundles:
        words = ("run", f"bundle-{name}.edgeres", "x.png")
        yield Try(f"a bundle: {name}", words, (2, 3, 4))
    for name in ("acts", "fifo", "deep", "long", "null"):
        words = ("convert", "recipe.yaml", "--data", f"list:list-{name}.txt", *out)
        yield Try(f"a list: {name}", words, (2, 3), 30)
    for name in ("deep", "odd", "acts"):
        words = ("benchmark", "engine.onnx", "--fleet", f"fleet-{name}.yaml")
        yield Try(f"a fleet: {name}", words, (2, 4))
    for name in ("deep.json", "empty", "junk"):
        for what, words in {
            "table": ("quantize", "net.onnx", *DATA, "--table", name, *out),
            "baseline": ("validate", "engine.onnx", *DATA, "--baseline", name),
            "conformance": ("validate", "engine.onnx", *DATA, "--baseline", "engine.onnx",
                            "--conformance", name),
            "labels": ("bundle", "folder", "--labels", name),
            "key": ("run", "bundle.edgeres", "x.png", "--key", name),
            "sample answer": ("convert", "--model", "net.safetensors", "--sample-answer", name,
                              *DATA, *out),
            "training recipe": ("train", name, *out),
            "history": ("report", "folder", "--history-file", name),
        }.items():  # fmt: skip
            yield Try(f"{name} as {what}", words, (2, 3))


def _outputs() -> Iterator[Try]:
    """Places that cannot be written, before any work."""
    words: tuple[str, ...]
    writers = {
        "convert": ("convert", "recipe.yaml"),
        "export": ("export", "net.safetensors", "--size", "28"),
        "prune": ("prune", "net.safetensors", *DATA[2:]),
        "quantize": ("quantize", "net.onnx", *DATA),
        "build": ("build", "net.onnx", "--target", "onnxruntime"),
        "tune": ("tune", "recipe.yaml", "--trials", "1"),
        "train": ("train", "train.yaml"),
        "bundle": ("bundle", "folder"),
        "pull": ("pull", "127.0.0.1:1/a/b:1", "--plain-http"),
        "report": ("report", "folder"),
    }
    for place in ("/proc/x", "", LONG, "a\0b", "/dev/full", "net.onnx/inside"):
        for what, words in writers.items():
            if "\0" in place:
                continue
            yield Try(f"{what} to {place[:20]!r}", (*words, "--output", place), (2, 3, 6), 20)
    for what in ("export", "quantize", "build", "pull"):
        yield Try(f"{what} to a folder", (*writers[what], "--output", "folder"), (0, 2, 4, 6))
    for what in ("convert", "tune", "train"):
        yield Try(f"{what} to a file", (*writers[what], "--output", "net.onnx"), (2, 6), 20)
    for option in ("--junit", "--save", "--record-conformance"):
        for place in ("/proc/x", "", LONG, "folder"):
            words = ("validate", "engine.onnx", *DATA, "--baseline", "engine.onnx", option, place)
            yield Try(f"{option} {place[:10]!r}", words, (2, 6), 20)


def _streams() -> Iterator[Try]:
    """Output that cannot be written, or that nobody reads."""
    for words in (("doctor",), ("doctor", "--json"), ("inspect", "engine.onnx", "--json"),
                  ("--help",), ("--version",)):  # fmt: skip
        told = " ".join(words)
        yield Try(f"{told} > /dev/full", words, (6,), stdout="/dev/full")
        yield Try(f"{told} | true", words, (141,), stdout="closed")


def _hosts() -> Iterator[Try]:
    """Hosts, registries and schedulers that are not there, and what names them."""
    words: tuple[str, ...]
    for name in ("known-junk", "known-acts", "folder", "nothing"):
        words = ("benchmark", "engine.onnx", "--device", "ssh://127.0.0.1:1", "--known-hosts", name)
        yield Try(f"known hosts: {name}", words, (2, 3, 4), 30)
    for name in ("key-garbage", "junk", "folder", "nothing"):
        words = ("benchmark", "engine.onnx", "--device", "ssh://127.0.0.1:1", "--known-hosts",
                 "empty", "--identity", name)  # fmt: skip
        yield Try(f"identity: {name}", words, (2, 3, 4), 30)
    scheduler = ("validate", "engine.onnx", *DATA, "--baseline", "engine.onnx", "--scheduler")
    for address in ("tcp://127.0.0.1:1", "nonsense", "", "tcp://127.0.0.1:99999"):
        yield Try(f"scheduler {address!r}", (*scheduler, address), (2, 4), 60)
    for name in ("127.0.0.1:1/a/b:1", "nonsense", "a\x1b[2J/b:1", "[::1]:1/a/b:1"):
        yield Try(f"pull {name!r}", ("pull", name, "--output", "made/b"), (2, 3, 4), 30)


def attempt(one: Try, folder: Path, code: str = MAIN) -> Answer:
    """Makes one try and judges what it answers."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **one.environment}
    command = [sys.executable, "-c", code, *one.words]
    reading, writing = os.pipe()
    if one.stdout == "closed":
        os.close(reading)
    elif one.stdout:
        os.close(writing)
        writing = os.open(one.stdout, os.O_WRONLY)
    begin = time.monotonic()
    with subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=writing if one.stdout else subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        restore_signals=True,
    ) as process:
        os.close(writing)
        try:
            out, told = process.communicate(timeout=one.seconds)
            late = False
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, told = process.communicate()
            late = True
    if one.stdout != "closed":
        os.close(reading)
    seconds = time.monotonic() - begin
    text = (out or b"").decode(errors="replace") + told.decode(errors="replace")
    wrong = "it hangs" if late else _wrong(one, process.returncode, text)
    return Answer(one.name, process.returncode, round(seconds, 2), wrong, text[-600:])


def _wrong(one: Try, code: int, text: str) -> str:
    """What is wrong with an answer; empty where nothing is."""
    errors = sum(line.startswith("error: ") for line in text.splitlines())
    acting = sorted(
        {c for c in text if unicodedata.category(c) in ("Cc", "Cf") and c not in "\n\t"}
    )
    rules = (
        ("Traceback" not in text and "Exception ignored" not in text, "a traceback"),
        ("bug of edgeres" not in text, "it calls it a bug of edgeres"),
        (code in one.codes, f"exit code {code}, not one of {list(one.codes)}"),
        (not acting, f"characters that act: {acting}"),
        (errors <= 1, f"{errors} lines of error"),
    )
    return next((told for holds, told in rules if not holds), "")


def attack(chosen: Sequence[Try], folder: Path) -> dict[str, Any]:
    """Makes tries and counts."""
    answers = []
    for one in chosen:
        answers.append(attempt(one, folder))
        if answers[-1].wrong:
            print(f"{one.name}: {answers[-1].wrong}", file=sys.stderr)
    wrong = [vars(answer) for answer in answers if answer.wrong]
    return {
        "tries": len(answers),
        "wrong": len(wrong),
        "slowest_s": max((answer.seconds for answer in answers), default=0.0),
        "answered_wrongly": wrong,
    }


def load(name: str) -> ModuleType:
    """Another program of this folder as a module."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def main() -> None:
    """Parses arguments, attacks, prints the counts; exit 1 where an answer was wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", default="", help="tries whose name has this in it")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        load("attack_files").make_place(folder, load("kills"), load("fuzz"))
        chosen = [one for one in tries() if arguments.only in one.name]
        result = attack(chosen, folder)
    print(json.dumps(result, indent=1))
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    sys.exit(1 if result["wrong"] else 0)


if __name__ == "__main__":
    main()
