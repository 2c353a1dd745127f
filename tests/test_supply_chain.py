"""Bounds of dependencies, pinned actions, and a release whose bytes anybody can build again."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from ruamel.yaml import YAML

from edgeres.version import __version__

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PINNED = re.compile(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")


@pytest.fixture(scope="module")
def lowest(load_program):
    return load_program(ROOT / "scripts" / "lowest.py")


def test_every_dependency_has_a_lowest_and_a_highest_version(lowest) -> None:
    tools = {"packaging"}  # of the tests alone, and of years
    for requirement in lowest.requirements(PROJECT):
        operators = {one.operator for one in requirement.specifier}
        wanted = [{"=="}, {">=", "<"}] + ([{">="}] if requirement.name in tools else [])
        assert operators in wanted, requirement


def test_what_is_installed_here_is_within(lowest) -> None:
    seen = 0
    for requirement in lowest.requirements(PROJECT):
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            continue
        seen += 1
        assert requirement.specifier.contains(found.partition("+")[0]), f"{requirement}: {found}"
    assert seen > 20


def test_the_lowest_versions_are_constraints_for_pip(lowest) -> None:
    lines = lowest.constraints(PROJECT)
    names = [Requirement(line).name for line in lines]
    assert names == sorted(names)
    assert len(set(names)) == len(names) > 30
    assert "edgeres" not in names
    for odd in ("numpy", "numpy<3", "numpy>=1,>=2"):
        with pytest.raises(ValueError, match="lowest version"):
            lowest.floor(Requirement(odd))


def test_actions_are_pinned_by_hash_and_one_job_may_publish() -> None:
    assert [path.name for path in WORKFLOWS] == ["ci.yml", "release.yml"]
    for path in WORKFLOWS:
        text = path.read_text()
        uses = re.findall(r"uses: (.*)", text)
        assert uses
        assert [one for one in uses if not PINNED.fullmatch(one)] == []
        content = YAML(typ="safe").load(text)
        assert content["permissions"] == {"contents": "read"}
        assert "secrets." not in text
        for name, job in content["jobs"].items():
            more = job.get("permissions")
            assert more == ({"id-token": "write"} if name == "publish" else None)
            if name == "publish":  # the token is there: no code of the repository runs
                assert job["environment"] == "release"
                assert all("run" not in step for step in job["steps"])
                assert not any("checkout" in step["uses"] for step in job["steps"])


def test_what_the_workflows_make_is_in_the_makefile() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for path in WORKFLOWS:
        for words in re.findall(r"run: make ([^\n]*)", path.read_text()):
            named = {word for word in words.split() if re.fullmatch(r"[a-z-]+", word)}
            assert named <= targets
    matrix = YAML(typ="safe").load(WORKFLOWS[0].read_text())["jobs"]["check"]["strategy"]["matrix"]
    assert set(matrix["target"]) <= targets


def test_two_builds_are_equal_and_hold_what_is_shipped(tmp_path: Path) -> None:
    pytest.importorskip("hatchling", reason="hatchling is not installed")
    if subprocess.run(["git", "-C", ROOT, "status"], capture_output=True, check=False).returncode:
        pytest.skip("this is no git repository")
    program = ROOT / "scripts" / "build_twice.py"
    done = subprocess.run(
        [sys.executable, program, "--out", tmp_path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    wheel = tmp_path / f"edgeres-{__version__}-py3-none-any.whl"
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        wheel.name,
        f"edgeres-{__version__}.tar.gz",
    ]
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        assert len({entry.date_time for entry in archive.infolist()}) == 1
    assert "edgeres/assets/recipes/default.yaml" in names
    assert "edgeres/__init__.py" in names
    assert not [name for name in names if name.startswith("tests/")]


def test_two_builds_that_differ_are_refused(load_program, tmp_path: Path, monkeypatch) -> None:
    program = load_program(ROOT / "scripts" / "build_twice.py")
    builds = iter([{"a.whl": "1"}, {"a.whl": "2"}])
    monkeypatch.setattr(program, "build", lambda *rest: next(builds))
    monkeypatch.setattr(program, "copy", lambda *rest, **more: None)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    with pytest.raises(SystemExit, match="two builds differ"):
        program.build_twice(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert json.dumps(next(builds, None)) == "null"
