"""``edgeres inspect`` and ``edgeres doctor``."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgeres.errors import ArtefactError

from .conftest import invoke


def test_an_engine_is_looked_into_in_a_child_first(note, monkeypatch):
    monkeypatch.setattr("edgeres.report.command_tables.inspection_table", lambda _: "a table")
    seen = note(
        "edgeres.evaluation.inspect.inspect", SimpleNamespace(to_dict=lambda: {"layers": []})
    )
    result = invoke("inspect", "a.onnx", "--source", "q.onnx", "--json")
    assert json.loads(result.stdout) == {"layers": []}
    assert seen.args == (Path("a.onnx"),)
    assert seen.options == {"source": Path("q.onnx"), "isolate": True}
    assert "a table" in invoke("inspect", "a.onnx").stdout


def test_an_error_is_one_line_and_its_exit_code(note):
    note("edgeres.evaluation.inspect.inspect", ArtefactError("a.onnx: damaged.", hint="Again."))
    result = invoke("inspect", "a.onnx")
    assert result.exit_code == 3
    assert result.stderr.count("\n") == 1
    assert "error: a.onnx: damaged." in result.stderr


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_doctor_says_what_it_found(note, monkeypatch, options):
    monkeypatch.setattr("edgeres.report.command_tables.health_table", lambda _: "a table")
    note("edgeres.backends.doctor.doctor", SimpleNamespace(to_dict=lambda: {"backends": {}}))
    result = invoke("doctor", *options)
    assert result.exit_code == 0
    assert ("backends" in result.stdout) == bool(options)
