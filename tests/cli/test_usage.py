"""A command line that does not parse is told to the CI file that it names."""

from __future__ import annotations

import pytest

from .conftest import invoke


@pytest.mark.parametrize(
    "line",
    [
        ["convert", "--threads", "none", "--junit"],
        ["convert", "--no-such-option", "--junit"],
        ["no-such-command", "--junit"],
    ],
)
def test_the_error_is_in_the_file(tmp_path, line):
    result = invoke(*line, tmp_path / "j.xml")
    assert result.exit_code == 2
    assert "<error" in (tmp_path / "j.xml").read_text()


def test_the_other_form_counts_too(tmp_path):
    invoke("convert", "--threads", "none", f"--junit={tmp_path / 'j.xml'}")
    assert (tmp_path / "j.xml").is_file()


def test_a_line_that_names_no_file_writes_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert invoke("convert", "--threads", "none").exit_code == 2
    assert list(tmp_path.iterdir()) == []
