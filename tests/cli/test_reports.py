"""``edgeres report``: files, and where asked history and MLflow."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeres.report.history import Change

from .conftest import invoke


@pytest.fixture
def written(note):
    return note("edgeres.report.write.write_reports", {"page": Path("out/report.html")})


def test_the_names_of_the_files_are_told(written):
    result = invoke("report", "out", "--license", "MIT")
    assert result.stdout.strip() == "out/report.html"
    assert written.args == (Path("out"), Path("out"))
    assert written.options == {"license_name": "MIT", "history": None}


def test_a_history_is_told_with_what_an_upgrade_changed(written, note):
    note("edgeres.report.history.read_history", [])
    fields = dict.fromkeys(Change.__dataclass_fields__, "x")
    note("edgeres.report.history.runtime_changes", [Change(**{**fields, "worse": True})])
    result = invoke("report", "out", "--history", "--output", "there", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["files"] == {"page": "out/report.html"}
    assert told["history"] == []
    assert told["changes"][0]["worse"] is True
    assert written.args[1] == Path("there")
    assert written.options["history"] == Path("out/history.sqlite")


def test_runs_of_mlflow_are_told(written, note):
    note("edgeres.report.page.read_output", "an output")
    seen = note("edgeres.report.mlflow_export.export_mlflow", {"openvino": "r1"})
    result = invoke("report", "out", "--mlflow", "file:there")
    assert "openvino: MLflow run r1" in result.stdout
    assert seen.args == ("an output", "file:there")
