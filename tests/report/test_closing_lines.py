"""The last lines of `convert` name every engine with its verdict, and a command that can be run."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import typer.main

from edgeres.cli import app
from edgeres.cli.closing_lines import closing_lines
from edgeres.report.schema import Winner


def _parsed(line: str) -> list[str]:
    """Names of the commands in a line; each is parsed by its own options."""
    root = typer.main.get_command(app)
    names = []
    for part in line.removeprefix("Next: ").partition(" (")[0].split(" && "):
        program, name, *arguments = shlex.split(part)
        assert program == "edgeres"
        root.commands[name].make_context(name, arguments)
        names.append(name)
    return names


def test_only_engines_that_passed_lead_to_a_bundle(report) -> None:
    lines = closing_lines(report(), Path("runs/my net"))
    assert lines[:4] == [
        "Engine: runs/my net/onnxruntime/model.onnx (onnxruntime, PASS)",
        "Engine: runs/my net/openvino/model.xml (openvino, INCONCLUSIVE)",
        "Engine: runs/my net/tensorrt/model.plan (tensorrt, NOT EXECUTED)",
        "Report: runs/my net/report.json",
    ]
    assert "--target onnxruntime &&" in lines[4]
    assert "'runs/my net/bundle.edgeres'" in lines[4]
    assert _parsed(lines[4]) == ["bundle", "run"]


@pytest.mark.parametrize(
    ("verdict", "commands"),
    [("pass", ["bundle", "run"]), ("fail", ["report"]), ("not_executed", ["report"])],
)
def test_all_alike(report, target, verdict: str, commands: list[str]) -> None:
    one = replace(report(), targets={"onnxruntime": target(verdict=verdict)})
    (*_, last) = closing_lines(one, Path("out"))
    assert "--target" not in last
    assert _parsed(last) == commands


def test_the_winner_alone_is_bundled(report, target) -> None:
    two = {"onnxruntime": target(), "openvino": target(engine="openvino/model.xml")}
    one = replace(report(), targets=two, winner=winner(engine="openvino/model.xml"))
    (*_, last) = closing_lines(one, Path("out"))
    assert "bundle out --target openvino &&" in last
    assert _parsed(last) == ["bundle", "run"]


def test_float_that_wins_is_built(report, target) -> None:
    one = replace(report(), targets={"openvino": target()}, winner=winner(engine=""))
    (*_, last) = closing_lines(one, Path("my out"))
    assert "'my out/baseline/model.onnx' --target openvino --output 'my out/fp32/model'" in last
    assert _parsed(last) == ["build"]


def winner(engine: str) -> Winner:
    return Winner("openvino", engine, 1.0, 2.0, "openvino", "openvino.")
