"""Results on stdout, everything else on stderr, an error as one line and its exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from subprocess import DEVNULL, PIPE, STDOUT

import pytest
import typer

from edgeres.cli.screen import CiTold, screen
from edgeres.errors import DataError, EndedBySignal, StorageError


def test_an_error_is_one_line_on_stderr(capsys):
    with pytest.raises(typer.Exit) as stopped, screen(as_json=False):
        raise DataError("a.png: is\nno image.", hint="Look at it.")
    assert stopped.value.exit_code == DataError.exit_code
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "error: a.png: is no image. Look at it.\n"


def test_with_json_an_error_is_an_object_on_stdout(capsys):
    with pytest.raises(typer.Exit), screen(as_json=True):
        raise DataError("no images.", hint="Give some.")
    out, err = capsys.readouterr()
    assert err == ""
    assert json.loads(out)["error"] == {
        "id": DataError.error_id, "message": "no images.", "hint": "Give some.",
        "exit_code": DataError.exit_code,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("error", "told"),
    [(ValueError("odd"), "unexpected ValueError: odd."), (MemoryError(), "out of memory.")],
)
def test_what_nobody_foresaw_is_one_line_too(capsys, error, told):
    with pytest.raises(typer.Exit) as stopped, screen(as_json=False):
        raise error
    assert stopped.value.exit_code == 5
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("code", [0, None, 3, "bye"])
def test_an_end_from_inside_is_no_end_that_passed(capsys, code):
    with pytest.raises(typer.Exit) as stopped, screen(as_json=False):
        raise SystemExit(code)
    assert stopped.value.exit_code == 5
    assert f"ended the process (sys.exit({code!r}))" in capsys.readouterr().err


def test_the_end_by_a_signal_keeps_its_code(capsys):
    with pytest.raises(EndedBySignal) as stopped, screen(as_json=False):
        raise EndedBySignal(143)
    assert stopped.value.code == 143
    assert "run the same command again" in capsys.readouterr().err


def test_an_interruption_says_that_what_is_done_is_kept(capsys):
    with pytest.raises(KeyboardInterrupt), screen(as_json=False):
        raise KeyboardInterrupt
    assert "run the same command again" in capsys.readouterr().err


def test_names_from_elsewhere_do_not_act_on_the_terminal(capsys):
    with screen(as_json=False) as out:
        out.note("class \x1b[2J")
        out.lines({}, ["cat\u202e"])
    told = capsys.readouterr()
    assert "\x1b" not in told.err
    assert "\\x1b" in told.err
    assert "\\u202e" in told.out


@pytest.mark.parametrize(
    ("streams", "told"),
    [
        ({"stdout": PIPE, "stderr": STDOUT}, ["warning: odd images.", "read above: 1"]),
        ({"stdout": PIPE, "stderr": DEVNULL}, ["read above: 0"]),
    ],
    ids=["one place", "two places"],
)
def test_what_was_read_above_is_known_where_both_streams_are_one(streams, told):
    code = """
from edgeres.cli.screen import screen
with screen(as_json=False) as out:
    with out.listener() as listener:
        listener.note("warning: odd images.")
    print("read above:", len(out.read_above(listener)))
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, text=True, **streams)
    assert [line for line in done.stdout.splitlines() if line] == told


def test_results_are_json_where_asked(capsys):
    with screen(as_json=True) as out:
        out.result({"top1": 0.5}, "a person reads this")
    assert json.loads(capsys.readouterr().out) == {"top1": 0.5}
    with screen(as_json=False) as out:
        out.result({"top1": 0.5}, "a person reads [this]")
    assert capsys.readouterr().out == "a person reads [this]\n"


def test_a_ci_file_says_that_a_command_did_not_end_until_it_does(tmp_path):
    junit, seen = tmp_path / "j.xml", []

    def command() -> None:
        with screen(as_json=False, ci=CiTold("convert", junit, annotations=False)):
            seen.append(junit.read_text())
            raise StorageError("the disk is full.")

    with pytest.raises(typer.Exit):
        command()
    assert "unfinished" in seen[0]
    assert "the disk is full." in junit.read_text()
