"""Results over time: appended whole, compared only where only the runtime changed."""

from __future__ import annotations

import dataclasses
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from edgeres.errors import ArtefactError
from edgeres.recipe.recipe import Recipe
from edgeres.report.history import append_run, read_history, recipe_sha256, runtime_changes
from edgeres.report.page import read_output, report_page
from edgeres.report.schema import Percentiles, write_report


def _later(report, **changes):
    """The report after an upgrade of the first target's runtime."""
    targets = dict(report.targets)
    fields = {"runtime": "onnxruntime 2"} | changes
    targets["onnxruntime"] = dataclasses.replace(targets["onnxruntime"], **fields)
    return dataclasses.replace(report, targets=targets)


def test_rows_come_back_in_order(report, tmp_path: Path) -> None:
    path = tmp_path / "h.sqlite"
    assert append_run(path, report(), name="net") == 1
    assert append_run(path, report(), name="net") == 2
    rows = read_history(path)
    assert [row.run for row in rows] == [1, 1, 1, 2, 2, 2]
    assert rows[0].p50_ms == 1.234
    assert rows[0].stable == 1
    assert rows[2].verdict == "not_executed"
    assert rows[2].top1 is None
    assert runtime_changes(rows) == []


@pytest.mark.parametrize(
    ("changes", "text", "worse"),
    [
        ({"latency_ms": Percentiles(1.5, 1.6, 1.7)}, "+22%", True),
        ({"latency_ms": Percentiles(1.0, 1.1, 1.2)}, "-19%", False),
        ({"latency_ms": Percentiles(1.3, 1.4, 1.5)}, "nothing changed", False),
        ({"latency_ms": Percentiles(9.0, 9.1, 9.2), "stable": False}, "nothing changed", False),
        ({"top1": 0.952}, "-0.20 pp of top-1", True),
        ({"sqnr_db": 20.0}, "-16.60 dB", True),
        ({"int8_coverage": 0.5}, "points of INT8 coverage", True),
        ({"verdict": "fail"}, "verdict pass to fail", True),
    ],
)
def test_an_upgrade_is_judged(report, tmp_path: Path, changes, text: str, worse: bool) -> None:
    path = tmp_path / "h.sqlite"
    append_run(path, report(), name="net")
    append_run(path, _later(report(), **changes), name="net")
    (found,) = runtime_changes(read_history(path))
    assert found.engine == "onnxruntime"
    assert text in found.text
    assert found.worse is worse
    assert "onnxruntime 2" in found.after


def test_another_machine_or_model_is_no_upgrade(report, tmp_path: Path) -> None:
    path = tmp_path / "h.sqlite"
    append_run(path, report(), name="net")
    elsewhere = dataclasses.replace(report().environment, cpu="another")
    slow = _later(report(), latency_ms=Percentiles(9.0, 9.1, 9.2))
    append_run(path, dataclasses.replace(slow, environment=elsewhere), name="net")
    more = dataclasses.replace(report().environment, isa=("avx2", "avx_vnni"))
    assert more.isa != report().environment.isa
    append_run(path, dataclasses.replace(slow, environment=more), name="net")
    model = dataclasses.replace(report().model, sha256="cd" * 32)
    append_run(path, dataclasses.replace(slow, model=model), name="net")
    assert runtime_changes(read_history(path)) == []
    # The same machine again is compared with itself, not with what ran in between.
    append_run(path, slow, name="net")
    (found,) = runtime_changes(read_history(path))
    assert "p50 1.23 to 9 ms" in found.text


def test_another_setting_is_no_upgrade(report, tmp_path: Path) -> None:
    path = tmp_path / "h.sqlite"
    recipe = Recipe.model_validate({"model": {"source": "net.onnx"}, "targets": ("all",)})
    minmax = recipe.override({"quantize.calibrator": "minmax"})
    named = recipe.override({"name": "other", "gates.max_drop": 9})
    assert recipe_sha256(recipe) == recipe_sha256(named) != recipe_sha256(minmax)
    append_run(path, report(), name="net", recipe_sha256=recipe_sha256(recipe))
    later = _later(report(), sqnr_db=9.0)
    append_run(path, later, name="net", recipe_sha256=recipe_sha256(minmax))
    assert runtime_changes(read_history(path)) == []
    append_run(path, later, name="net", recipe_sha256=recipe_sha256(recipe))
    assert len(runtime_changes(read_history(path))) == 1


def test_rows_say_the_instruction_sets(report, tmp_path: Path) -> None:
    path = tmp_path / "h.sqlite"
    machine = dataclasses.replace(report().environment, isa=("avx2", "avx_vnni"))
    append_run(path, dataclasses.replace(report(), environment=machine), name="net")
    assert {row.isa for row in read_history(path)} == {"avx2 avx_vnni"}


def test_runs_at_the_same_time_are_all_kept(report, tmp_path: Path) -> None:
    path = tmp_path / "h.sqlite"
    with ThreadPoolExecutor(8) as pool:
        runs = list(pool.map(lambda _: append_run(path, report(), name="net"), range(16)))
    assert sorted(runs) == list(range(1, 17))
    assert len(read_history(path)) == 48


def test_other_files_are_refused_and_kept(report, tmp_path: Path) -> None:
    text = tmp_path / "text.sqlite"
    text.write_text("no database " * 100)
    other = tmp_path / "other.sqlite"
    old = tmp_path / "old.sqlite"
    for path, schema in ((other, 7), (old, 2)):
        with sqlite3.connect(path) as database:
            database.execute(f"PRAGMA user_version = {schema}")
        database.close()
    for path in (text, other, old):
        before = path.read_bytes()
        for use in (read_history, lambda p: append_run(p, report(), name="net")):
            with pytest.raises(ArtefactError, match="history"):
                use(path)
        assert path.read_bytes() == before
    with pytest.raises(ArtefactError, match="no history is there"):
        read_history(tmp_path / "absent.sqlite")


def test_a_file_that_a_killed_run_began_is_gone_on_with(report, tmp_path: Path) -> None:
    # Found by benchmarks/kills.py: killed between making the file and making its table.
    path = tmp_path / "h.sqlite"
    path.touch()
    assert read_history(path) == []
    assert append_run(path, report(), name="net") == 1
    # A table of somebody else's is no history, whatever its number.
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as database:
        database.execute("CREATE TABLE results (letter TEXT)")
    database.close()
    before = other.read_bytes()
    for use in (read_history, lambda p: append_run(p, report(), name="net")):
        with pytest.raises(ArtefactError, match="is no history"):
            use(other)
    assert other.read_bytes() == before


def test_rows_that_a_killed_run_half_wrote_are_rolled_back(report, tmp_path: Path) -> None:
    path = tmp_path / "h.sqlite"
    append_run(path, report(), name="net")
    code = (
        "import os, sqlite3, sys\n"
        "database = sqlite3.connect(sys.argv[1])\n"
        "database.execute('PRAGMA cache_size = 1')\n"
        "database.execute('BEGIN IMMEDIATE')\n"
        "database.execute('UPDATE results SET name = zeroblob(9000)')\n"
        "for _ in range(50):\n"
        "    database.execute('INSERT INTO results SELECT * FROM results LIMIT 3')\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert done.returncode == -9
    assert path.with_name("h.sqlite-journal").stat().st_size > 0
    assert [row.name for row in read_history(path)] == ["net"] * 3
    assert append_run(path, report(), name="net") == 2


def test_page_shows_it(report, tmp_path: Path) -> None:
    write_report(report(), tmp_path / "report.json")
    path = tmp_path / "h.sqlite"
    append_run(path, report(), name="net")
    append_run(path, _later(report(), top1=0.9), name="net")
    text = report_page(read_output(tmp_path), read_history(path))
    assert "-5.40 pp of top-1" in text
    assert "2 runs." in text
    assert 'id="history"' not in report_page(read_output(tmp_path))
