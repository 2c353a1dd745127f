"""What is handed to NVIDIA's tools on another machine: models for each release, and scripts."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import onnx

from edgeres.backends.serving._model import ServedModel
from edgeres.backends.tensorrt.commands import trtexec_options, typing_options
from edgeres.backends.tensorrt.form import Form, write_form
from edgeres.backends.tensorrt.graph import Graph
from edgeres.backends.tensorrt.options import TensorRTOptions, parse_options
from edgeres.errors import ModelError

MODEL, OLD_MODEL, PLAN = "model.onnx", "model.opset17.onnx", "model.plan"

_START = """\
#!/bin/sh
# {what}
set -eu
cd "$(dirname "$0")/1"
trtexec=${{TRTEXEC:-$(command -v trtexec || echo /usr/src/tensorrt/bin/trtexec)}}
version=$("$trtexec" --help 2>&1 | sed -n 's/.*\\[TensorRT v\\([0-9]*\\)\\].*/\\1/p' | head -n 1)
[ -n "$version" ] || {{ echo "$trtexec: does not say its version" >&2; exit 4; }}
"""


def build_options(model: ServedModel) -> TensorRTOptions:
    """The options of an engine's build, with float16 between INT8 layers where nothing was said."""
    options = parse_options(model.engine.options)
    return options if options.rest else replace(options, rest="float16")


def write_models(graph: Graph, model: ServedModel, folder: Path, *, io: str = "float32") -> None:
    """Writes the Q/DQ graph as TensorRT 10 and later read it, and as 8.5 and 8.6 do.

    Args:
        graph: The graph; all its constants lie inside.
        model: Its engine's options say what is not INT8.
        folder: Where both files go.
        io: Type of inputs and outputs on TensorRT 10 and later.

    Raises:
        ModelError: The graph has no such form.
    """
    options = build_options(model)
    form: Form = "float16" if options.rest == "float16" else "source"
    write_form(graph, form, folder / MODEL, io=io if form == "float16" else "float32")
    write_form(graph, "opset17", folder / OLD_MODEL)
    for name in (MODEL, OLD_MODEL):
        # What leaves this machine must be whole.
        onnx.checker.check_model(str(folder / name))


def script_start(what: str) -> str:
    """The head of a script: it goes to the models and asks ``trtexec`` for its version."""
    return _START.format(what=what)


def build_script(model: ServedModel) -> str:
    """A shell script that builds the plan with ``trtexec``, for whatever TensorRT is there."""
    options = build_options(model)
    rest = options.rest or "float32"
    shared = shlex.join(trtexec_options(options, model.engine.shapes))
    lines = [script_start("Builds 1/model.plan for this machine's GPU and measures it.")]
    branches = ((8, OLD_MODEL, "100000"), (10, MODEL, "110000"), (11, MODEL, ""))
    for release, file, below in branches:
        first = "if" if release == 8 else "elif"
        test = f'{first} [ "$version" -lt {below} ]; then' if below else "else"
        typing = shlex.join(typing_options(release, rest))
        lines.append(f"{test}\n    set -- {shlex.quote(f'--onnx={file}')} {typing}".rstrip())
    lines.append(f'fi\nexec "$trtexec" "$@" --saveEngine={PLAN} \\\n    {shared}')
    return "\n".join(lines) + "\n"


def write_script(path: Path, text: str) -> None:
    """Writes a script that can be run."""
    path.write_text(text, encoding="utf-8", newline="\n")
    path.chmod(0o755)


def qdq_file(model: ServedModel) -> Path:
    """The Q/DQ file of an engine.

    Raises:
        ModelError: There is none.
    """
    if model.qdq is None or not model.qdq.is_file():
        raise ModelError(f"{model.name}: its Q/DQ file is not there.", hint="Convert it again.")
    return model.qdq
