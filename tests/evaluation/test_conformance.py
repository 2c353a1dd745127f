"""Conformance files: both sides fail, other backends' parts stay, odd files are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeres.errors import ArtefactError, UsageError
from edgeres.evaluation.conformance import (
    Expected,
    conformance_checks,
    load_conformance,
    record_conformance,
)

FIGURES = {"top1": 0.9455, "sqnr_db": 36.3, "int8_coverage": None, "size_bytes": 1000.0}


@pytest.mark.parametrize(
    ("got", "outcome", "better"),
    [
        (0.9455, "pass", False),
        (0.9465, "pass", False),
        (0.9445, "pass", False),
        (0.9444, "fail", False),
        (0.9466, "fail", True),
        (None, "fail", False),
    ],
)
def test_either_side_fails(got, outcome: str, better: bool) -> None:
    (check,) = conformance_checks({"top1": Expected(0.9455, 0.001)}, {"top1": got})
    assert check.outcome == outcome
    assert ("better than expected" in check.reason) == better
    assert check.name == "conformance.top1"


def test_smaller_and_less_lost_are_better() -> None:
    wanted = {"size_bytes": Expected(1000, 10), "drop_pp": Expected(0.1, 0.1)}
    checks = conformance_checks(wanted, {"size_bytes": 900.0, "drop_pp": -0.3})
    assert all("better than expected" in check.reason for check in checks)
    worse = conformance_checks(wanted, {"size_bytes": 1100.0, "drop_pp": 0.3})
    assert all(check.outcome == "fail" and "better" not in check.reason for check in worse)


def test_recorded_figures_pass_and_other_parts_stay(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    record_conformance(path, model="net", backend="a", figures=FIGURES)
    record_conformance(path, model="net", backend="b", figures={"top1": 0.5})
    kept = load_conformance(path)
    assert kept.model == "net"
    assert set(kept.of("a")) == {"top1", "sqnr_db", "size_bytes"}
    assert all(c.outcome == "pass" for c in conformance_checks(kept.of("a"), FIGURES))
    assert kept.of("b")["top1"].expected == 0.5
    with pytest.raises(UsageError, match="no part for c"):
        kept.of("c")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "- 1",
        "a: [",
        "backends: {x: {top1: 0.9}}",
        "backends: {x: {top1: {expected: .nan, tolerance: 0}}}",
        "backends: {x: {top1: {expected: 1, tolerance: -1}}}",
        "backends: {x: {speed: {expected: 1, tolerance: 1}}}",
        "backends: {}\nmore: 1",
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ArtefactError, match=r"c\.yaml"):
        load_conformance(tmp_path / "c.yaml")
    with pytest.raises(ArtefactError, match="a conformance file cannot be read"):
        load_conformance(tmp_path / "absent.yaml")
