"""Verdicts for CI systems: JUnit XML files and GitHub annotations."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping
from pathlib import Path

from edgeres.evaluation.gates import Verdict
from edgeres.files import write_atomic
from edgeres.report.schema import Report


def junit_xml(verdicts: Mapping[str, Verdict], *, suite: str = "edgeres") -> str:
    """One test case for each check of each engine, in the format that CI systems read.

    ``fail`` becomes a failure, ``inconclusive`` a failure of that type, ``not_executed`` a skipped
    test.

    Args:
        verdicts: Verdict by engine.
        suite: Name of the test suite.
    """
    root = ET.Element("testsuite", name=suite)
    failures = skipped = 0
    for engine, verdict in verdicts.items():
        rows = [(check.name, check.outcome, check.reason) for check in verdict.checks]
        if not rows or verdict.outcome == "not_executed":
            rows.append(("executed", verdict.outcome, verdict.reason))
        for name, outcome, reason in rows:
            case = ET.SubElement(root, "testcase", classname=f"{suite}.{engine}", name=name)
            told = _printable(reason)
            if outcome == "not_executed":
                skipped += 1
                ET.SubElement(case, "skipped", message=told)
            elif outcome == "pass":
                ET.SubElement(case, "system-out").text = told
            else:
                failures += 1
                ET.SubElement(case, "failure", type=outcome, message=told).text = told
    root.set("tests", str(len(root)))
    root.set("failures", str(failures))
    root.set("errors", "0")
    root.set("skipped", str(skipped))
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=False) + "\n"


def verdicts_of(report: Report) -> dict[str, Verdict]:
    """The verdict on each target of a run."""
    return {
        name: Verdict(part.verdict, part.reason, part.checks)
        for name, part in report.targets.items()
    }


def tell_ci(
    verdicts: Mapping[str, Verdict],
    *,
    junit: Path | None,
    annotations: bool,
    say: Callable[[str], None],
) -> None:
    """Tells a CI system what it was asked to be told.

    Args:
        verdicts: Verdict by engine.
        junit: Where the JUnit file goes; ``None`` for none.
        annotations: Whether to say GitHub's workflow commands.
        say: Takes each command, a line.

    Raises:
        StorageError: The file cannot be written.
    """
    if junit is not None:
        write_junit(verdicts, junit)
    for line in github_annotations(verdicts) if annotations else ():
        say(line)


def write_junit(verdicts: Mapping[str, Verdict], path: Path) -> None:
    """Writes :func:`junit_xml` as a file.

    Raises:
        StorageError: The file cannot be written.
    """
    text = '<?xml version="1.0" encoding="utf-8"?>\n' + junit_xml(verdicts)
    write_atomic(path, text.encode())


def github_annotations(verdicts: Mapping[str, Verdict]) -> list[str]:
    """One workflow command for each verdict; printed, GitHub shows it on the run's page."""
    level = {"pass": "notice", "not_executed": "notice", "inconclusive": "warning", "fail": "error"}
    return [
        f"::{level[verdict.outcome]} title={_property(f'edgeres {engine}: {verdict.outcome}')}::"
        f"{_data(verdict.reason)}"
        for engine, verdict in verdicts.items()
    ]


def _data(text: str) -> str:
    """Escapes the message of a workflow command, so that no text can start another one."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def _printable(text: str) -> str:
    """Without the control characters that XML cannot carry at all."""
    return "".join(char for char in text if char.isprintable() or char in "\n\t")
