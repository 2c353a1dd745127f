"""``--help`` of every command: nothing swallowed, nothing cut, examples that can be typed."""

import shlex

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from edgeres.cli import app
from edgeres.cli.help import _GROUPS, EXAMPLES

PROGRAM = get_command(app)
COMMANDS = sorted(PROGRAM.commands)


def shown(*words, width=80):
    result = CliRunner().invoke(
        app, [*words, "--help"], env={"COLUMNS": str(width), "TERM": "dumb"}
    )
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("width", [40, 80, 200])
def test_every_option_is_whole(command, width):
    text = shown(command, width=width)
    assert "<bool>" not in text
    assert "…" not in text
    if width == 200:
        for option in PROGRAM.commands[command].params:
            if option.param_type_name == "option":
                assert all(name in text for name in option.opts)


def test_brackets_are_no_markup():
    assert "ssh://[user@]host[:port]" in shown("benchmark", width=200)
    assert "ssh://[user@]host[:port]" in shown("validate", width=200)


def test_the_program_shows_its_commands_and_completion():
    text = shown()
    assert "<bool>" not in text
    assert "--install-completion" in text
    assert all(f" {name} " in text for name in COMMANDS)


def test_groups_name_options_that_exist():
    names = {option.name for command in PROGRAM.commands.values() for option in command.params}
    listed = [name for group in _GROUPS.values() for name in group]
    assert set(listed) <= names
    assert len(listed) == len(set(listed))
    assert "─ Preprocessing ─" in shown("convert")
    assert "─ Preprocessing ─" not in shown("clean")


def test_every_command_has_examples_that_parse():
    assert sorted(EXAMPLES) == COMMANDS
    for name, examples in EXAMPLES.items():
        for _, line in examples:
            words = shlex.split(line.rpartition("|")[2])
            assert words[:2] == ["edgeres", name]
            command = PROGRAM.commands[name]
            with command.make_context(name, words[2:], resilient_parsing=False):
                pass
            assert line.split("--")[0].strip()[:30] in shown(name, width=200)
