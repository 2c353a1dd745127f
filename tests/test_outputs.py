"""Places that cannot be written are refused before any work; nothing is left by the look."""

from __future__ import annotations

import json
import os
from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from edgeres.cli import app
from edgeres.cli.outputs import check_outputs
from edgeres.errors import StorageError

COMMANDS = {
    "convert": ["nothing.yaml"],
    "tune": ["nothing.yaml"],
    "train": ["nothing.yaml"],
    "export": ["nothing.pt", "--size", "28"],
    "prune": ["nothing.pt"],
    "quantize": ["nothing.onnx", "--data", "npz:x"],
    "build": ["nothing.onnx", "--target", "onnxruntime"],
    "bundle": ["nothing"],
    "pull": ["127.0.0.1:1/a/b:1"],
    "report": ["nothing"],
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("kept")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("place", "code", "told"),
    [
        ("", 2, "expected a name"),
        ("x" * 300, 2, "no such name"),
        ("/proc/x", 6, "cannot be written"),
        ("file/inside", 6, "cannot be written|in the way"),
        ("fifo", 2, "no plain file"),
    ],
    ids=["empty", "long", "proc", "below a file", "FIFO"],
)
def test_no_command_begins(folder, command, place, code, told) -> None:
    if command in ("convert", "tune", "train", "report") and place == "fifo":
        code, told = 6, "no folder"
    words = [command, *COMMANDS[command], "--output", place, "--json"]
    done = CliRunner().invoke(app, words)
    error = json.loads(done.stdout)["error"]
    assert done.exit_code == error["exit_code"] == code
    assert any(part in error["message"] for part in told.split("|"))
    assert sorted(path.name for path in folder.iterdir()) == ["fifo", "file", "folder"]
    assert list((folder / "folder").iterdir()) == []


def test_a_place_that_can_be_written_is_left_as_it_was(folder) -> None:
    for command, place in (("convert", "new/deep"), ("convert", "folder"), ("export", "folder"),
                           ("build", "file"), ("pull", "new/net")):  # fmt: skip
        check_outputs(command, ["--output", place])
        check_outputs(command, [f"--output={place}"])
    assert (folder / "file").read_text() == "kept"
    assert sorted(path.name for path in folder.iterdir()) == ["fifo", "file", "folder"]


@pytest.mark.parametrize("option", ["--junit", "--save", "--record-conformance"])
def test_files_beside_the_output_are_looked_at_too(option: str) -> None:
    with pytest.raises(StorageError, match=f"folder is in the way: .* {option} names a file"):
        check_outputs("validate", [option, "folder"])
    with pytest.raises(StorageError, match="cannot be written"):
        check_outputs("validate", [f"{option}=/proc/x"])
    with pytest.raises(StorageError, match="is in the way: it is a folder"):
        check_outputs("pull", ["--output", "folder"])
    with pytest.raises(StorageError, match="is no folder"):
        check_outputs("convert", ["--output", "file"])


def test_a_refusal_is_told_to_ci(folder) -> None:
    (folder / "j.xml").write_text("<testsuite failures='0'/>")
    words = ["convert", "nothing.yaml", "--output", "/proc/x", "--junit", "j.xml"]
    assert CliRunner().invoke(app, words).exit_code == 6
    (case,) = ElementTree.parse(folder / "j.xml").getroot()
    assert case.find("error") is not None


def test_a_table_that_is_there_is_only_read(folder) -> None:
    check_outputs("quantize", ["--table", "file"])
    with pytest.raises(StorageError):
        check_outputs("quantize", ["--table", "/proc/x"])
