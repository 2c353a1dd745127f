"""What CI systems are told."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

from edgeres.evaluation.gates import Check, decide, not_executed
from edgeres.report.junit import (
    github_annotations,
    junit_xml,
    tell_ci,
    verdicts_of,
    write_junit,
)

VERDICTS = {
    "good": decide([Check("accuracy", "pass", "fine.")]),
    "bad": decide(
        [
            Check("accuracy", "inconclusive", "who <knows> & why\x1b[31m."),
            Check("int8_coverage", "fail", "50% only\n::error::injected"),
        ]
    ),
    "absent": not_executed("no GPU."),
}


def test_cases_and_counts() -> None:
    root = ET.fromstring(junit_xml(VERDICTS))
    assert {k: root.get(k) for k in ("tests", "failures", "errors", "skipped")} == {
        "tests": "4",
        "failures": "2",
        "errors": "0",
        "skipped": "1",
    }
    cases = {(c.get("classname"), c.get("name")): c for c in root}
    assert cases["edgeres.good", "accuracy"].find("failure") is None
    doubt = cases["edgeres.bad", "accuracy"].find("failure")
    assert doubt is not None
    assert doubt.get("type") == "inconclusive"
    assert doubt.get("message") == "who <knows> & why\\x1b[31m."
    assert cases["edgeres.absent", "executed"].find("skipped") is not None


def test_file_is_well_formed(tmp_path: Path) -> None:
    write_junit(junit_xml(VERDICTS), tmp_path / "junit.xml")
    assert ET.parse(tmp_path / "junit.xml").getroot().tag == "testsuite"


def test_annotations_are_one_line_each_and_cannot_be_injected() -> None:
    lines = github_annotations(VERDICTS)
    assert lines[0] == "::notice title=edgeres good%3A pass::fine."
    assert lines[1] == "::error title=edgeres bad%3A fail::50%25 only%0A::error::injected"
    assert lines[2].startswith("::notice title=edgeres absent%3A not_executed::")
    assert all("\n" not in line for line in lines)


def test_a_run_is_told_target_by_target(report, tmp_path: Path) -> None:
    told: list[str] = []
    verdicts = verdicts_of(report())
    tell_ci(verdicts, junit=tmp_path / "j.xml", annotations=True, say=told.append)
    assert [line.partition(" ")[0] for line in told] == ["::notice", "::warning", "::notice"]
    root = ET.parse(tmp_path / "j.xml").getroot()
    skipped = [c.get("classname") for c in root if c.find("skipped") is not None]
    assert skipped == ["edgeres.tensorrt"]
    tell_ci(verdicts, junit=None, annotations=False, say=told.append)
    assert len(told) == 3
