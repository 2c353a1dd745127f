"""Faults that are really caused, on whole runs: full disk, locks, kills, no network.

``docs/reliability.md`` lists every fault with its test; those of single parts lie beside the parts.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgeres.backends import get_backend

PROGRAM = Path(__file__).parent.parent / "benchmarks" / "kills.py"
CLI = """
from edgeres.benchmarking import latency
from edgeres.cli import main
latency._WARM_CHANGE = float("inf")
main()
"""

pytestmark = pytest.mark.skipif(
    get_backend("onnxruntime").missing() is not None, reason="needs onnxruntime"
)


@pytest.fixture(scope="module")
def kills(load_program):
    return load_program(PROGRAM)


def convert(recipe: Path, output: Path, *more: str, **options: Any):
    command = [sys.executable, "-c", CLI, "convert", str(recipe), "--output", str(output), *more]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


@pytest.fixture(scope="module")
def recipe(kills, tmp_path_factory) -> Path:
    return kills.workplace(tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="module")
def clean(recipe) -> Path:
    """Output of one undisturbed run; tests copy it."""
    output = recipe.parent / "clean"
    done = convert(recipe, output)
    assert done.returncode == 0, done.stderr
    return output


@pytest.fixture
def earlier(clean, tmp_path) -> Path:
    return Path(shutil.copytree(clean, tmp_path / "out"))


def one_error(done) -> str:
    """The one line of error of a command that failed as it should."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return lines[0]


def test_a_full_disk_names_the_place_and_keeps_earlier_outputs(recipe, clean, mount, kills):
    disk = mount("size=2m")
    shutil.copytree(clean, disk / "out", ignore=shutil.ignore_patterns(".stages"))
    (disk / "filler").write_bytes(bytes(shutil.disk_usage(disk).free - 32_768))
    before = kills.hashes(disk / "out")
    done = convert(recipe, disk / "out", "--no-cache")
    assert done.returncode == 6, done.stderr
    line = one_error(done)
    assert "no space left" in line
    assert "bytes free" in line
    assert str(disk) in line
    assert kills.hashes(disk / "out") == before
    (disk / "filler").unlink()
    subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
    assert convert(recipe, disk / "out").returncode == 0
    assert kills.hashes(disk / "out") == kills.hashes(clean)


def test_a_limit_on_the_size_of_files_keeps_earlier_outputs(recipe, earlier, kills):
    resource = pytest.importorskip("resource")
    before = kills.hashes(earlier)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    done = convert(recipe, earlier, "--no-cache", preexec_fn=limit)
    assert done.returncode == 6, done.stderr
    assert "may not grow" in one_error(done)
    assert kills.hashes(earlier) == before


def test_a_read_only_output_is_refused_before_any_work(recipe, clean, mount, kills):
    disk = mount("size=20m")
    shutil.copytree(clean, disk / "out")
    before = kills.hashes(disk / "out")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    for output in (disk / "out", disk / "new"):
        done = convert(recipe, output, "--no-cache")
        assert done.returncode == 6, done.stderr
        assert "cannot be written" in one_error(done)
        assert "overlap" not in done.stderr
        assert "check data" not in done.stderr
    assert kills.hashes(disk / "out") == before


def test_a_second_run_says_who_holds_the_folder(recipe, earlier, kills):
    before = kills.hashes(earlier)
    code = (
        "import sys; from pathlib import Path; from edgeres.system.store import output_lock\n"
        f"with output_lock(Path({str(earlier)!r})): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        done = convert(recipe, earlier)
        assert done.returncode == 6
        assert f"process {holder.pid}" in one_error(done)
        assert kills.hashes(earlier) == before
        holder.kill()
    taken = convert(recipe, earlier)
    assert taken.returncode == 0, taken.stderr
    assert "took over" in taken.stderr


def test_a_damaged_cache_entry_is_made_again_with_a_warning(recipe, earlier, kills, clean):
    table = next((earlier / ".stages").glob("calibrate-*/calibration_table.json"))
    table.write_text(table.read_text().replace("1", "2", 1))
    done = convert(recipe, earlier)
    assert done.returncode == 0, done.stderr
    assert "does not match its manifest" in done.stderr
    assert kills.hashes(earlier) == kills.hashes(clean)


def test_results_of_another_runtime_version_are_not_used(monkeypatch):
    from edgeres.backends.target import open_target
    from edgeres.pipeline.keys import place_key
    from edgeres.system.store import content_key

    target = open_target("onnxruntime")
    here = content_key("build", {"model": "x"}, place_key(target))
    monkeypatch.setattr(type(target.backend), "versions", lambda self: {"onnxruntime": "0.1"})
    assert content_key("build", {"model": "x"}, place_key(target)) != here


def test_shared_images_are_a_warning(recipe, tmp_path):
    import numpy as np

    images = np.random.default_rng(0).integers(0, 256, (64, 28, 28), dtype=np.uint8)
    np.savez(tmp_path / "same.npz", images=images, labels=np.arange(64) % 10)
    for file in ("net.onnx", "recipe.yaml"):
        shutil.copyfile(recipe.with_name(file), tmp_path / file)
    data = f"npz:{tmp_path / 'same.npz'}"
    done = convert(tmp_path / "recipe.yaml", tmp_path / "out", "--data", data)
    assert done.returncode == 0, done.stderr
    assert "calibration images are also in" in done.stderr


def test_no_network_is_needed(recipe, tmp_path, kills, clean):
    command = ["unshare", "--net", sys.executable, "-c", CLI, "convert", recipe]
    probe = subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False)
    if shutil.which("unshare") is None or probe.returncode:
        pytest.skip("taking the network away needs root")
    done = subprocess.run(
        [*command, "--output", tmp_path / "out"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert kills.hashes(tmp_path / "out") == kills.hashes(clean)


def _program(*arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, str(PROGRAM), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_run_that_was_killed_ends_like_a_clean_one():
    found = _program("--kills", "1", "--pairs", "1", "--edges", "quantize")
    assert found["kills"]["rerun gave the clean run's files"] == 1
    assert found["edges"]["rerun gave the clean run's files"] == found["edges"]["edges"] == 3
    assert found["edges"]["killed"] == 3
    assert found["edges"]["earlier output damaged"] == 0
    assert found["pairs"]["the clean run's files"] == 1


@pytest.mark.slow
def test_kills_at_every_edge_and_at_random_moments():
    found = _program("--kills", "20", "--pairs", "10", "--seed", "1")
    kills, pairs, edges = found["kills"], found["pairs"], found["edges"]
    assert kills["rerun gave the clean run's files"] == 10
    assert kills["killed while at work"] >= 10
    assert kills.get("earlier output damaged", 0) == kills["temporaries left"] == 0
    assert pairs["the clean run's files"] == 10
    assert edges["rerun gave the clean run's files"] == edges["edges"] == edges["killed"]
    assert edges["earlier output damaged"] == 0


def test_the_table_of_faults_names_tests_that_exist():
    root = PROGRAM.parent.parent
    rows = [
        line for line in (root / "docs" / "reliability.md").read_text().splitlines()
        if re.match(r"\| \d+ \|", line)
    ]  # fmt: skip
    assert [int(row.split("|")[1]) for row in rows] == list(range(1, 78))
    for row in rows:
        cell = row.split("|")[4]
        assert "does not apply: " in cell or "`" in cell, row
        file = None
        for named in re.findall(r"`([^`]+\.py)?(?:::)?([^`]*)`", cell):
            if named[0].startswith("benchmarks/"):
                assert (root / named[0]).is_file()
                continue
            file = root / "tests" / named[0] if named[0] else file
            word = named[1].replace("...", "").removeprefix("_").removeprefix("test_").strip("_")
            if word.startswith("--"):
                continue
            assert file is not None
            assert f"def test_{word}" in file.read_text(), f"{file}: {word}"
