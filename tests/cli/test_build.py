"""``edgeres build``: options are parsed, and what the engine makes of the file is told."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgeres.quantization.qdq_view import Finding

from .conftest import invoke

ENGINE = SimpleNamespace(
    path=Path("out.onnx"), backend="onnxruntime", device="cpu", source_sha256="ab",
    versions={"onnxruntime": "1"}, options={"spinning": "false"},
)  # fmt: skip


@pytest.fixture
def built(note, monkeypatch):
    findings = (Finding("scale", "conv1", "the scale is 0", "wrong"),)
    checked = note("edgeres.evaluation.qdq_check.findings_of", findings)
    return note("edgeres.stages.network.build", ENGINE), checked


def test_options_and_shapes_are_parsed(built):
    build, checked = built
    result = invoke(
        "build", "net.onnx", "--output", "out", "--target", "onnxruntime", "--threads", 2,
        "--option", "spinning=false", "--shapes", "image=1x1x28x28,1x1x28x28,4x1x28x28", "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert build.args == (Path("net.onnx"), Path("out"))
    assert build.options["device"] == "cpu"  # the target's default
    assert build.options["isolate"] is True
    assert build.options["options"] == {"spinning": "false"}
    assert build.options["shapes"]["image"].max == (4, 1, 28, 28)
    assert checked.args == (Path("net.onnx"), "onnxruntime", "cpu", ENGINE.options)
    told = json.loads(result.stdout)
    assert (told["engine"], told["source_sha256"]) == ("out.onnx", "ab")
    assert told["findings"][0]["message"] == "the scale is 0"


def test_a_person_reads_what_is_wrong(built):
    result = invoke("build", "net.onnx", "--output", "out", "--target", "onnxruntime")
    assert "WRONG on this device: conv1: the scale is 0 [scale]" in " ".join(result.stdout.split())


@pytest.mark.parametrize(
    "options", [["--option", "spinning"], ["--shapes", "1x2"], ["--threads", "0"]]
)
def test_options_that_make_no_sense_are_refused(built, options):
    result = invoke("build", "net.onnx", "--output", "o", "--target", "onnxruntime", *options)
    assert result.exit_code == 2
    assert built[0].calls == 0
