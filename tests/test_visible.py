"""Characters that act on a terminal are spelt out wherever a command prints a line."""

from __future__ import annotations

import pytest
import typer

from edgeres.cli.screen import screen, visible
from edgeres.errors import DataError


def test_what_acts_is_spelt_out_and_what_shows_stays() -> None:
    assert visible("a\x1b[2Jb\u202ec\n\u2028\r") == r"a\x1b[2Jb\u202ec\n\u2028\r"
    assert visible("Ärmel / 靴 / bag\u00a0€") == "Ärmel / 靴 / bag\u00a0€"


def test_lines_notes_and_errors_go_through_it(capsys) -> None:
    with screen(as_json=False) as out:
        out.lines({}, ["cat\x1b[31m", "dog"])
        out.note("warning: \x07")
    with pytest.raises(typer.Exit), screen(as_json=False):
        raise DataError("class \u202e: bad.")
    told = capsys.readouterr()
    assert told.out == "cat\\x1b[31m\ndog\n"
    assert told.err == "warning: \\x07\nerror: class \\u202e: bad.\n"
