"""Tries of `attack.py` on events: signals, packages that are missing, what leaves the machine."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

from attack_try import Try

DATA = ("--data", "npz:images.npz", "--mean", "0.286", "--std", "0.353")
QUANTIZE = ("quantize", "net.onnx", "--target", "onnxruntime", *DATA)
LONG: dict[str, tuple[str, ...]] = {
    "convert": ("convert", "recipe.yaml", "--output", "made/out"),
    "tune": ("tune", "recipe.yaml", "--trials", "3", "--output", "made/out"),
    "benchmark": ("benchmark", "engine.onnx", "--seconds", "30"),
    "run": ("run", "whole.edgeres", *["cat.png"] * 3000),
    "validate": ("validate", "engine.onnx", *DATA, "--baseline", "engine.onnx"),
    "quantize": (
        "quantize",
        "net.onnx",
        "--target",
        "onnxruntime",
        *DATA,
        "--output",
        "made/q.onnx",
    ),
}
"""Commands that take a while, and start children."""
BLOCKED = """\
import importlib.abc, sys

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {packages!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocked())
from edgeres.cli import main
main()
"""
NEEDS: dict[str, tuple[tuple[str, ...], ...]] = {
    "torch": (("export", "net.safetensors", "--size", "28", "--output", "made/x.onnx"),
              ("prune", "net.safetensors", "--output", "made/x")),
    "torch_pruning": (("convert", "--output", "made/x"),),
    "onnxscript": (("export", "net.safetensors", "--size", "28", "--output", "made/x.onnx"),),
    "onnxruntime": (LONG["convert"], LONG["quantize"], ("inspect", "engine.onnx"),
                    ("run", "whole.edgeres", "cat.png"), ("benchmark", "engine.onnx")),
    "openvino": (("build", "net.onnx", "--target", "openvino", "--output", "made/x.xml"),),
    "mlperf_loadgen": (("benchmark", "engine.onnx", "--scenario", "offline"),),
    "optuna": (LONG["tune"],),
    "asyncssh": (("benchmark", "engine.onnx", "--device", "ssh://127.0.0.1:1"),
                 (*LONG["validate"], "--device", "ssh://127.0.0.1:1")),
    "distributed": ((*LONG["validate"], "--workers", "2"),),
    "mlflow": (("report", "run", "--mlflow", "http://127.0.0.1:1"),),
    "oras": (("pull", "127.0.0.1:1/a/b:1", "--output", "made/b"),
             ("push", "whole.edgeres", "127.0.0.1:1/a/b:1")),
    "cryptography": (("run", "whole.edgeres", "cat.png", "--key", "junk"),
                     ("bundle", "run", "--sign", "junk", "--output", "made/b")),
}  # fmt: skip
"""Package to commands that cannot do without it."""


def signals() -> Iterator[Try]:
    """Every ending signal, early and late, to everything that runs for a while."""
    for what, words in LONG.items():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL):
            for after in (2.0, 5.0):
                ended = -9 if number == signal.SIGKILL else 128 + number
                early = -number  # before edgeres is imported
                name = f"{number.name} to {what} after {after:g} s"
                more: dict[str, Any] = {"end_with": number, "after": after}
                yield Try(name, words, (ended, early, 0, 1, 3), **more)


def missing_packages() -> Iterator[Try]:
    """Commands without a package that they need, and `doctor` and help without each."""
    for package, commands in NEEDS.items():
        code = BLOCKED.format(packages={package})
        for words in commands:
            name = f"{words[0]} {' '.join(words[-2:])[:30]} without {package}"
            yield Try(name, words, (4,), code=code, says="pip install ")
        yield Try(f"doctor without {package}", ("doctor",), (0,), code=code)
    for words in (("doctor", "--json"), ("--help",), ("convert", "--help"), ("--version",)):
        code = BLOCKED.format(packages={*NEEDS, "altair", "vl_convert", "jinja2"})
        yield Try(f"{' '.join(words)} with no extra", words, (0,), code=code)


def telemetry() -> Iterator[Try]:
    """Commands under strace: nothing is looked up or sent, and no file is left at home."""
    quick = ("--seconds", "0.1", "--threads", "1")
    for words in (
        ("doctor",),
        ("--help",),
        ("inspect", "engine.onnx"),
        LONG["convert"],
        LONG["quantize"],
        LONG["validate"],
        ("benchmark", "engine.onnx", *quick),
        ("run", "whole.edgeres", "cat.png"),
        ("build", "net.onnx", "--target", "onnxruntime", "--output", "made/x.onnx"),
        ("build", "net.onnx", "--target", "openvino", "--output", "made/x.xml"),
        ("compare", "net.onnx", "engine.onnx", *DATA),
        ("report", "run"),
        ("bundle", "run", "--output", "made/b"),
        ("export", "net.safetensors", "--size", "28", "--output", "made/x.onnx"),
        ("sensitivity", "net.onnx", "--target", "onnxruntime", *DATA),
    ):
        name = f"watched: {' '.join(words)[:60]}"
        yield Try(name, words, (0, 1, 3, 4), 300, watched=True)


def usage() -> Iterator[Try]:
    """Options whose value makes no sense."""
    bench = ("benchmark", "engine.onnx")
    judge = LONG["validate"]
    for words in (
        (*bench, "--seconds", "nan"), (*bench, "--seconds", "-1"), (*bench, "--seconds", "inf"),
        (*bench, "--threads", "0"), (*bench, "--threads", "9" * 30), (*bench, "--batch-size", "0"),
        (*bench, "--batch-size", "9" * 12), (*bench, "--device", "toaster"),
        (*bench, "--device", "cuda:x"), (*bench, "--device", "cuda:-1"),
        (*bench, "--device", "ssh://u:secret@h"), (*bench, "--device", "ssh://-oProxyCommand=x"),
        (*bench, "--scenario", "none"), (*bench, "--target-qps", "nan", "--scenario", "server"),
        (*bench, "--sustained", "-1"), ("benchmark",), ("benchmark", ""), ("benchmark", "\x1b[2J"),
        (*judge, "--max-drop", "nan"), (*judge, "--confidence", "2"), (*judge, "--crop", "0"),
        (*judge, "--min-int8-coverage", "-1"), (*judge, "--max-size-bytes", "-5"),
        (*judge, "--mean", "x"), (*judge, "--mean", ","), (*judge, "--mean", "nan"),
        (*judge, "--std", "0"), (*judge, "--std", "1,2,3,4,5"), (*judge, "--resize", "-1"),
        (*judge, "--interpolation", "magic"), (*judge, "--layout", "hwcn"),
        (*judge, "--channel-order", "xyz"), (*judge, "--scale", "inf"), (*judge, "--workers", "0"),
        ("convert", "recipe.yaml", "--target", "toaster", "--output", "made/x"),
        ("convert", "recipe.yaml", "--max-drop", "nan", "--output", "made/x"),
        ("convert", "a.yaml", "b.yaml"), ("tune", "recipe.yaml", "--trials", "-1"),
        (*QUANTIZE, "--samples", "-3", "--output", "made/x.onnx"),
        ("run", "whole.edgeres", "cat.png", "--top", "0"), ("run", "whole.edgeres"),
        ("build", "net.onnx", "--target", "toaster"), ("no-such-command",), ("--no-such-option",),
        ("report", "run", "--history-file", "\x1b[2J\u202e"), ("clean", "nothing-here"),
        ("pull", "127.0.0.1:1/a/b:1"), ("export", "net.safetensors", "--size", "0"),
    ):  # fmt: skip
        shown = " ".join(words).encode("unicode_escape").decode()[-70:]
        yield Try(f"usage: {shown}", words, (5,) if "9" * 12 in words else (2, 3, 4))
