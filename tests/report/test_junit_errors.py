"""A JUnit file of an earlier run never speaks for one that ended without a verdict."""

from __future__ import annotations

import signal
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edgeres.cli import app
from edgeres.evaluation.gates import Check, decide
from edgeres.report.junit import github_annotations, junit_xml, write_junit

GREEN = {"onnxruntime": decide([Check("accuracy", "pass", "fine.")])}


@pytest.fixture
def junit(tmp_path: Path) -> Path:
    """The file of an earlier green run."""
    write_junit(junit_xml(GREEN), tmp_path / "junit.xml")
    return tmp_path / "junit.xml"


def error_in(junit: Path) -> ET.Element:
    """The one error that a file holds."""
    root = ET.parse(junit).getroot()
    assert {key: root.get(key) for key in ("tests", "failures", "errors", "skipped")} == {
        "tests": "1", "failures": "0", "errors": "1", "skipped": "0",
    }  # fmt: skip
    error = root.find("testcase/error")
    assert error is not None
    return error


@pytest.mark.parametrize(
    ("words", "code", "kind", "text"),
    [
        (["convert", "{}/none.yaml"], 2, "recipe", "none.yaml"),
        (["convert", "--model", "{}/none.onnx"], 3, "bad-model", "no such model file"),
        (["convert", "--model", "{}/none.onnx", "--json"], 3, "bad-model", "no such model file"),
        (["convert", "--model", "{}/none.onx"], 2, "usage", "neither a model file nor an"),
        (["validate", "{}"], 3, "bad-artefact", "got a folder. There is no engine in it"),
        (["convert", "--target", "abacus"], 2, "recipe", "abacus"),
        (["convert", "--threads", "many"], 2, "usage", "--threads"),
        (["convert", "--no-such-option"], 2, "usage", "--no-such-option"),
        (["validate"], 2, "usage", "engine"),
        (["validate", "{}/none.plan", "--mean", "0"], 3, "bad-artefact", "no such engine file"),
        (["validate", "{}/none.plan", "--data", "npz:{}/none.npz"], 3, "bad-data", "none.npz"),
        (["convrt"], 2, "usage", "convrt"),
    ],
)
def test_an_error_takes_the_place_of_an_earlier_verdict(junit, words, code, kind, text):
    filled = [word.format(junit.parent) for word in words]
    result = CliRunner().invoke(app, [*filled, "--junit", str(junit), "--annotations"])
    assert result.exit_code == code, result.output
    error = error_in(junit)
    assert error.get("type") == kind
    assert text in (error.text or "")
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("::")]
    assert line.startswith(f"::error title=edgeres {filled[0]}%3A {kind}::")


def test_with_an_equals_sign_too(junit):
    assert CliRunner().invoke(app, ["convert", f"--junit={junit}", "--bogus"]).exit_code == 2
    assert error_in(junit).get("type") == "usage"


def test_a_file_that_cannot_be_written_is_refused_before_any_work(junit):
    (junit.parent / "folder").mkdir()
    result = CliRunner().invoke(app, ["convert", "--junit", str(junit.parent / "folder")])
    assert result.exit_code == 6
    assert "is in the way" in result.stderr


def test_a_killed_run_leaves_an_error(junit, tmp_path):
    code = (
        "import sys, time, edgeres.pipeline.convert as p; p.convert = lambda *a, **k: (print('go',"
        "flush=True), time.sleep(60)); from edgeres.cli import main; main()"
    )
    command = [sys.executable, "-c", code, "convert", "--junit", str(junit)]
    with subprocess.Popen([*command, "--output", str(tmp_path)], stdout=subprocess.PIPE) as run:
        assert run.stdout is not None
        run.stdout.readline()
        run.send_signal(signal.SIGKILL)
    assert error_in(junit).get("type") == "unfinished"
    assert "did not end" in (error_in(junit).text or "")


def test_what_explains_a_verdict_is_told():
    bad = {"onnxruntime": decide([Check("accuracy", "fail", "dropped 4 pp.")])}
    explained = {"onnxruntime": ["layer3.0.conv1 saturates: 9.1 dB.", "mean 0 is 0.5 off."]}
    case = ET.fromstring(junit_xml(bad, explained=explained)).find("testcase/failure")
    assert case is not None
    assert case.get("message") == "dropped 4 pp."
    assert (case.text or "").splitlines() == ["dropped 4 pp.", *explained["onnxruntime"]]
    (line,) = github_annotations(bad, explained)
    assert line.endswith("::dropped 4 pp. layer3.0.conv1 saturates: 9.1 dB. mean 0 is 0.5 off.")
    assert "saturates" not in github_annotations(GREEN, explained)[0]
