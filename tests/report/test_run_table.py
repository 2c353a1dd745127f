"""The table at the widths people have, with and without colour and Unicode."""

from __future__ import annotations

import dataclasses
import io

import pytest
from rich.console import Console

from edgeres.report.explain import findings
from edgeres.report.run_table import report_table
from edgeres.report.schema import AgreementMatrix, Finding, PruningLatency


def draw(
    report, width: int, *, encoding: str = "utf-8", colour: bool = False, read: list[str] = ()
) -> str:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    console = Console(
        file=stream,
        width=width,
        force_terminal=colour,
        color_system="truecolor" if colour else None,
        _environ={},
    )
    console.print(report_table(report, console, read=read))
    stream.flush()
    return raw.getvalue().decode(encoding)


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
def test_every_number_is_whole_and_no_line_too_long(report, width: int) -> None:
    text = draw(report(), width)
    assert max(len(line) for line in text.splitlines()) <= width
    assert "…" not in text
    for value in (
        "95.61 → 95.40",
        "+0.21 (≤ 0.42)",
        "99.12",
        "36.6",
        "98.2",
        "1.23",
        "1.30",
        "1.50",
        "2.90x",
        "0.91x?",
        "PASS",
        "INCONCLUSIVE",
        "NOT EXECUTED",
        "onnxruntime",
        "openvino",
        "tensorrt",
        "40.8 M MACs",
        "10,000 images",
        "no NVIDIA driver here.",
    ):
        assert value in text, value


def test_wide_has_a_line_for_each_target_and_narrow_a_column(report) -> None:
    wide = draw(report(), 120).splitlines()
    assert any(line.strip().startswith("onnxruntime ") and "2.90x" in line for line in wide)
    narrow = draw(report(), 80).splitlines()
    assert any("onnxruntime" in line and "tensorrt" in line for line in narrow)
    assert any(line.strip().startswith("Speed-up") for line in narrow)


def test_terminals_without_unicode(report) -> None:
    for width in (80, 120):
        text = draw(report(), width, encoding="ascii")
        assert "95.61 -> 95.40" in text
        assert "(<= 0.42)" in text


def test_colour_adds_nothing_that_words_do_not_say(report) -> None:
    import re

    coloured = draw(report(), 120, colour=True)
    assert "\x1b[" in coloured
    plain = re.sub(r"\x1b\[[0-9;]*m", "", coloured)
    assert plain == draw(report(), 120)


def test_equal_findings_share_a_line(report) -> None:
    told = report()
    told = dataclasses.replace(told, findings=findings(told))
    text = draw(told, 200)
    assert "note: onnxruntime, openvino: 1.8 % of the MACs do not run in INT8" in text
    assert "warning: openvino: the times are doubtful" in text


def test_many_targets_make_several_tables(report, target) -> None:
    many = report(targets={f"backend{i}": target() for i in range(9)})
    text = draw(many, 80)
    assert max(len(line) for line in text.splitlines()) <= 80
    assert text.count("Speed-up") == 3


def test_names_are_never_taken_for_markup(report, target) -> None:
    text = draw(report(targets={"x": target(reason="node [red]conv[0][/red] is slow.")}), 120)
    assert "node [red]conv[0][/red] is slow." in text


def test_exact_logits_are_told(report, target) -> None:
    text = draw(report(targets={"x": target(sqnr_db=None, agreement=1.0)}), 120)
    assert "exact" in text


def test_no_negative_zero(report, target) -> None:
    text = draw(report(targets={"x": target(drop_pp=-0.001, drop_upper_pp=0.1)}), 120)
    assert "-0.00" not in text
    assert "+0.00 (≤ 0.10)" in text


@pytest.mark.parametrize("width", [50, 80, 120])
def test_each_pair_of_engines_is_told_once(report, width: int) -> None:
    matrix = AgreementMatrix(
        names=("fp32", "onnxruntime", "openvino"),
        agreement=((1.0, 0.991, 0.992), (0.991, 1.0, 0.993), (0.992, 0.993, 1.0)),
        sqnr_db=((None, 36.1, 38.2), (36.0, None, 35.3), (38.1, 35.4, None)),
    )
    text = draw(report(agreement_matrix=matrix), width)
    assert max(len(line) for line in text.splitlines()) <= width
    for pair in ("99.10 (36.1)", "99.20 (38.2)", "99.30 (35.3)"):
        assert text.count(pair) == 1
    assert "35.4" not in text
    two = dataclasses.replace(matrix, names=("fp32", "onnxruntime"))
    assert "99.10 (36.1)" not in draw(report(agreement_matrix=two), width)


@pytest.mark.parametrize("width", [60, 120])
@pytest.mark.parametrize("precision", ["int8", "fp32"])
def test_precision_is_that_of_the_engines(report, target, precision: str, width: int) -> None:
    built = report(targets={"openvino": target(precision=precision)})
    pruning = dataclasses.replace(built.pruning, latency=PruningLatency("openvino", 4.0, 2.0))
    text = draw(dataclasses.replace(built, pruning=pruning), width)
    assert f"pruned by {precision.upper()} latency on openvino" in text
    assert f"FP32 → {precision.upper()}" in text


def test_what_was_read_above_is_not_said_again(report) -> None:
    found = (Finding("warning", "data", "odd images."), Finding("info", "data", "odd engine."))
    told = dataclasses.replace(report(), findings=found)
    assert "warning: odd images." in draw(told, 120)
    text = draw(told, 120, read=["warning: odd images.", "warning: odd engine."])
    assert "odd images" not in text
    assert "note: odd engine." in text
