"""Characters that act on a terminal are spelt out wherever a command prints a line."""

from __future__ import annotations

import warnings
from xml.etree import ElementTree

import pytest
import typer
from typer.testing import CliRunner

from edgeres.cli import app
from edgeres.cli.console import ConsoleListener
from edgeres.cli.screen import CiTold, screen
from edgeres.cli.visible_console import open_console
from edgeres.errors import DataError
from edgeres.evaluation.gates import Verdict
from edgeres.report.junit import error_xml, junit_xml
from edgeres.report.markdown import plain
from edgeres.system.foreign_text import visible


def test_what_acts_is_spelt_out_and_what_shows_stays() -> None:
    assert visible("a\x1b[2Jb\u202ec\n\u2028\r") == r"a\x1b[2Jb\u202ec\n\u2028\r"
    assert visible("Ärmel / 靴 / bag\u00a0€") == "Ärmel / 靴 / bag\u00a0€"
    assert visible("a\tb\nc\x00", lines=True) == "a\tb\nc\\x00"
    assert visible("\ufffe\ufdd0\U0001ffff\ud800") == r"\ufffe\ufdd0\U0001ffff\ud800"


def test_lines_notes_and_errors_go_through_it(capsys) -> None:
    with screen(as_json=False) as out:
        out.lines({}, ["cat\x1b[31m", "dog"])
        out.note("warning: \x07")
    with pytest.raises(typer.Exit), screen(as_json=False):
        raise DataError("class \u202e: bad.")
    told = capsys.readouterr()
    assert told.out == "cat\\x1b[31m\ndog\n"
    assert told.err == "warning: \\x07\nerror: class \\u202e: bad.\n"


BAD = "cat\x1b]0;owned\x07\u202egpj.exe"
GOOD = r"cat\x1b]0;owned\x07\u202egpj.exe"


@pytest.mark.filterwarnings("default")
def test_tables_and_what_a_run_says_go_through_it(capsys) -> None:
    from rich.table import Table
    from rich.text import Text

    with screen(as_json=False) as out:
        table = Table()
        table.add_column(Text(BAD))
        table.add_row(Text(BAD, style="red"))
        out.result({}, table)
        out.result({}, f"{BAD}\nnext")
        with ConsoleListener(open_console(stderr=True)) as listener:
            listener.note(BAD)
            warnings.warn(f"odd {BAD}", UserWarning, stacklevel=1)
    shown = GOOD.replace(r"\x07", "")  # rich leaves bells out itself
    told = capsys.readouterr()
    assert told.out.count(shown) == 3
    assert f"{shown}\nnext\n" in told.out
    assert told.err.count(shown) == 2
    assert not {"\x1b", "\x07", "\u202e"} & set(told.out + told.err)


def test_what_a_ci_system_reads_goes_through_it(capsys, tmp_path) -> None:
    told = CiTold("convert", tmp_path / "j.xml", annotations=True)
    told.error("bad-data", f"class {BAD}\nnext")
    assert GOOD in (tmp_path / "j.xml").read_text()
    assert GOOD in capsys.readouterr().err
    xml = junit_xml({BAD: Verdict("fail", f"{BAD}\x00\ufffe", ())}, explained={BAD: [BAD]})
    ElementTree.fromstring(xml)
    ElementTree.fromstring(error_xml("x", "y", "\x00\ufffe"))
    assert xml.count(GOOD) == 4
    assert "\x1b" not in xml


def test_markdown_and_pages_go_through_it() -> None:
    pytest.importorskip("jinja2", reason="jinja2 is not installed")
    from markupsafe import Markup

    from edgeres.report.page import _shown

    assert plain(BAD) == r"cat\\x1b\]0;owned\\x07\\u202egpj.exe"
    assert _shown(BAD) == GOOD
    svg = _shown(Markup(f"<b>{BAD}\n</b>"))
    assert isinstance(svg, Markup)
    assert svg == f"<b>{GOOD}\n</b>"
    assert _shown(3) == 3


def test_a_file_name_cannot_act_on_the_terminal(tmp_path) -> None:
    done = CliRunner().invoke(app, ["inspect", f"{tmp_path}/{BAD}"])
    assert done.exit_code == 3
    assert GOOD in done.stderr
