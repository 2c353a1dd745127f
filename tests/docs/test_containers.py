"""The Dockerfiles and the workflow: every file, extra, command and option in them is there.

No container is built here. What they install and call is held to the repository, hadolint reads
them where it is installed, and the commands of the workflow run as they stand.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import xml.etree.ElementTree as ET
from pathlib import Path

import click
import pytest
import typer.main
from ruamel.yaml import YAML

from edgeres.cli import app

from .conftest import Run

ROOT = Path(__file__).parents[2]
DOCKERFILES = sorted((ROOT / "examples").glob("*.Dockerfile"))
ACTION = ROOT / "examples" / "github-action.yml"
PINNED = re.compile(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def _instructions(file: Path) -> list[tuple[str, str]]:
    text = re.sub(r"^#.*\n", "", file.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in text.splitlines())]


def _check_call(words: list[str]) -> None:
    """Fails where edgeres has no such command, or the command no such option."""
    commands = typer.main.get_command(app)
    assert isinstance(commands, click.Group) or hasattr(commands, "commands")
    command = commands.commands[words[0]]
    options = {name for one in command.params for name in [*one.opts, *one.secondary_opts]}
    for word in words[1:]:
        if word.startswith("--"):
            assert word in options, (words[0], word)


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.stem)
def test_what_a_dockerfile_names_is_there(file: Path) -> None:
    found = _instructions(file)
    copied = [rest.split()[:-1] for word, rest in found if word == "COPY" and "$" not in rest]
    assert len(copied) == 4
    sources = {name for names in copied for name in names}
    for source in sources:
        assert (ROOT / source).exists(), source
    # What the wheel is made of is copied, or it cannot be made.
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    needed = {*wheel["targets"]["wheel"]["force-include"], "edgeres", "LICENSE", "README.md"}
    assert needed <= sources
    for word, rest in found:
        if word == "ARG" and rest.startswith("EXTRA"):
            assert set(rest.partition("=")[2].split(",")) <= EXTRAS.keys()
        if word == "ENTRYPOINT":
            program, *arguments = json.loads(rest)
            assert program == "edgeres"
            if arguments:
                _check_call(arguments)
        if word == "CMD":
            _check_call(json.loads(rest))


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.stem)
def test_the_call_in_its_head_exists(file: Path) -> None:
    head = "".join(re.findall(r"^#(.*)$", file.read_text(), re.MULTILINE)).replace("\\", " ")
    image = "net" if file.stem == "runtime" else "edgeres-ci"
    build, call = re.findall(r"docker (?:build|run) .*?(?= docker |$)", head)
    words = shlex.split(build)
    assert words[words.index("-f") + 1] == str(file.relative_to(ROOT))
    assert words[words.index("-t") + 1] == image
    words = shlex.split(re.split(r"\. | The ", call)[0])
    if image == "edgeres-ci":
        _check_call(words[words.index(image) + 1 :])


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.stem)
def test_hadolint_finds_nothing(file: Path) -> None:
    hadolint = shutil.which("hadolint") or shutil.which(
        "hadolint", path=str(Path(sys.executable).parent)
    )
    if hadolint is None:
        pytest.skip("hadolint is not installed")
    done = subprocess.run(
        [hadolint, "--no-color", file], capture_output=True, text=True, check=False
    )
    assert done.stdout + done.stderr == ""


def test_the_workflow_pins_its_actions_and_may_only_read() -> None:
    text = ACTION.read_text()
    uses = re.findall(r"uses: (.*)", text)
    assert len(uses) == 3
    assert [one for one in uses if not PINNED.fullmatch(one)] == []
    assert YAML(typ="safe").load(text)["permissions"] == {"contents": "read"}
    ours = (ROOT / ".github" / "workflows" / "release.yml").read_text()
    assert [one for one in uses if one not in ours] == []


@pytest.mark.slow
@pytest.mark.any_cpu("how commands are called, not what INT8 engines answer")
def test_the_workflows_commands_run_and_leave_what_is_kept(place: Path, run: Run) -> None:
    (place / "ci").mkdir()
    for name in ("predictions.npz", "preprocess.json"):
        shutil.copyfile(place / "baseline" / name, place / "ci" / name)
    steps = YAML(typ="safe").load(ACTION.read_text())["jobs"]["validate"]["steps"]
    commands = [step["run"] for step in steps if step.get("run", "").startswith("edgeres ")]
    assert len(commands) == 2
    for command in commands:
        done = run(command, place)
        assert done.returncode == 0, done.stderr
    assert "::notice title=edgeres" in done.stderr
    assert json.loads((place / "gate.json").read_text())["verdict"] == "pass"
    cases = ET.parse(place / "gate.xml").getroot().iter("testcase")
    assert {"accuracy", "int8_coverage"} <= {case.get("name") for case in cases}
    installed = re.findall(r"edgeres\[([\w-]+)\]", ACTION.read_text())
    assert len(installed) == 1
    assert installed[0] in EXTRAS


def test_what_the_images_copy_is_sent_to_docker() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split()
    for name in ("edgeres", "recipes", "calibration", "pyproject.toml", "README.md", "LICENSE"):
        assert name not in ignored
