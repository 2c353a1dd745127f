"""A run's record of its stages, and what it tells a person once."""

from __future__ import annotations

from .conftest import Notes


def make(folder, *_):
    (folder / "a.txt").write_text("made")


def test_a_stage_is_told_made_and_found(new_run):
    asked = {"inputs": {"x": "1"}, "settings": {"n": 1}, "produce": make}
    first = new_run.stage("thing", **asked, label="a thing")
    again = new_run.stage("thing", **asked)
    other = new_run.stage("thing", **{**asked, "settings": {"n": 2}})
    assert first.file("a.txt").read_text() == "made"
    assert [(part.name, part.cached) for part in new_run.stages] == [
        ("a thing", False), ("thing", True), ("thing", False),
    ]  # fmt: skip
    assert first.path == again.path != other.path
    assert new_run.stages[0].result == first.path.name


def test_a_warning_is_told_once_and_an_empty_one_never(new_run):
    assert isinstance(new_run.listener, Notes)
    for text in ("odd", "odd", "", "even"):
        new_run.warn_once(text)
    assert new_run.listener.lines == ["warning: odd", "warning: even"]
    assert new_run.warnings == ["odd", "even"]


def test_what_is_measured_anew_keeps_no_result(new_run):
    with new_run.measured("benchmark") as progress:
        progress(1, 2)
    (part,) = new_run.stages
    assert (part.name, part.cached, part.result) == ("benchmark", False, "")
