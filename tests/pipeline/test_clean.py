"""What nothing uses goes, told; what the last report, the last run or a process holds stays."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from edgeres.cli import app
from edgeres.pipeline.convert import stage_store
from edgeres.report.schema import BaselinePart, ModelPart, Report, write_report
from edgeres.system.environment import describe_environment
from edgeres.system.progress import StagePart
from edgeres.system.publish import PLACE
from edgeres.system.store import Store, output_lock


def clean(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["clean", *map(str, arguments)])


def stage(store: Store, setting: int, *, fails: bool = False) -> str:
    """One stage with a state of 1,000 bytes; its name in the store."""

    def produce(folder: Path, work: Path) -> None:
        if fails:
            work.mkdir()
            (work / "state").write_bytes(bytes(1000))
            raise KeyboardInterrupt
        (folder / "value").write_bytes(bytes(1000))

    try:
        return store.stage("s", inputs={}, settings={"n": setting}, produce=produce).path.name
    except KeyboardInterrupt:
        return ""


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """A report that uses result 1; then runs with settings 2 and 3, the last stopped at 4."""
    folder = tmp_path / "out"
    with output_lock(folder):
        used = stage(stage_store(folder), 1)
        write_report(
            Report(
                environment=describe_environment(()),
                model=ModelPart("net", 1, 1, "00"),
                baseline=BaselinePart(0.5, 10),
                pruning=None,
                stages=(StagePart("s", 0.0, False, 0, used),),
                targets={},
            ),
            folder / "report.json",
        )
        store = stage_store(folder)
        stage(store, 2)
        stage(store, 5, fails=True)
        store = stage_store(folder)
        stage(store, 3)
        stage(store, 4, fails=True)
    (folder / ".stages" / "mine").mkdir()
    (folder / ".stages" / ".s-dead").mkdir()
    (folder / ".stages" / ".s-dead" / "part").write_bytes(bytes(500))
    (folder / ".stages" / ".file_hashes.json-dead").write_bytes(bytes(100))
    return folder


def test_only_what_nothing_uses_is_removed(output):
    names = {path.name for path in (output / ".stages").iterdir()}
    told = clean(output, "--dry-run", "--json")
    assert told.exit_code == 0, told.output
    assert {path.name for path in (output / ".stages").iterdir()} == names
    (planned,) = json.loads(told.stdout)["folders"]
    (done,) = json.loads(clean(output, "--json").stdout)["folders"]
    assert done == planned
    left = {path.name for path in (output / ".stages").iterdir()}
    assert names - left == set(done["removed"])
    assert len(done["removed"]) == 4, "result 2, the state of 5, the dead temporaries"
    assert done["kept"] == 3, "result 1, result 3, the state of 4"
    assert done["removed_bytes"] >= 2600
    assert {"mine", "used.txt"} <= left
    store = Store(output / ".stages")
    for setting in (1, 3):
        assert store.stage(
            "s", inputs={}, settings={"n": setting}, produce=lambda *_: pytest.fail("made again")
        ).cached
    (again,) = json.loads(clean(output, "--json").stdout)["folders"]
    assert again["removed"] == []


def test_all_is_all_and_a_person_reads_sizes(output):
    result = clean(output, "--all")
    assert result.exit_code == 0, result.output
    assert "7 results removed" in result.stdout
    assert "KiB" in result.stdout
    assert "0 kept" in result.stdout
    assert (output / "report.json").is_file()


def test_what_a_process_holds_is_left_alone(output):
    before = {path.name for path in (output / ".stages").iterdir()}
    code = (
        "import sys; from pathlib import Path; from edgeres.system.store import output_lock\n"
        f"with output_lock(Path({str(output)!r})): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        result = clean(output, "--all")
        holder.kill()
    assert result.exit_code == 6
    assert f"process {holder.pid}" in result.stderr
    assert {path.name for path in (output / ".stages").iterdir()} == before


def test_a_folder_of_outputs_and_none(output, tmp_path):
    assert len(json.loads(clean(tmp_path, "--json").stdout)["folders"]) == 1
    (tmp_path / "empty").mkdir()
    assert clean(tmp_path / "empty").exit_code == 3
    assert clean(tmp_path / "nowhere").exit_code == 3


def test_a_damaged_report_keeps_everything(output):
    (output / "report.json").write_text("{")
    assert clean(output).exit_code == 3
    assert len(list((output / ".stages").glob("s-*"))) == 3


def test_a_handover_that_was_killed_is_finished(output):
    place = output / PLACE
    (place / "new").mkdir(parents=True)
    (place / "new" / "engine").write_text("new")
    (place / "moves.json").write_text(json.dumps([[f"{PLACE}/new/engine", "engine"]]))
    result = clean(output)
    assert result.exit_code == 0, result.output
    assert "stopped at its end; finished" in result.stdout
    assert (output / "engine").read_text() == "new"
