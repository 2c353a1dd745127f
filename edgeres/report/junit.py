"""Verdicts for CI systems: JUnit XML files and GitHub annotations."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from edgeres.evaluation.gates import Verdict
from edgeres.report.schema import Report
from edgeres.system.files import write_atomic
from edgeres.system.foreign_text import visible

_SUITE = "edgeres"
Explained = Mapping[str, Sequence[str]]
"""Engine to what explains its verdict, in sentences."""

ENDED = "did not end: it was stopped, or crashed"
"""What a JUnit file says from the start of a command until its end."""


def junit_xml(verdicts: Mapping[str, Verdict], *, explained: Explained | None = None) -> str:
    """One test case for each check of each engine, in the format that CI systems read.

    ``fail`` becomes a failure, ``inconclusive`` a failure of that type, ``not_executed`` a skipped
    test.

    Args:
        verdicts: Verdict by engine.
        explained: What explains the verdict of an engine; a failure's text holds it.
    """
    root = ET.Element("testsuite", name=_SUITE)
    failures = skipped = 0
    for engine, verdict in verdicts.items():
        rows = [(check.name, check.outcome, check.reason) for check in verdict.checks]
        if not rows or verdict.outcome == "not_executed":
            rows.append(("executed", verdict.outcome, verdict.reason))
        for name, outcome, reason in rows:
            case = ET.SubElement(
                root, "testcase", classname=visible(f"{_SUITE}.{engine}"), name=visible(name)
            )
            text = visible(reason, lines=True)
            why = visible("\n".join([reason, *(explained or {}).get(engine, ())]), lines=True)
            if outcome == "not_executed":
                skipped += 1
                ET.SubElement(case, "skipped", message=text)
            elif outcome == "pass":
                ET.SubElement(case, "system-out").text = text
            else:
                failures += 1
                ET.SubElement(case, "failure", type=outcome, message=text).text = why
    return _counted(root, failures=failures, skipped=skipped)


def error_xml(command: str, kind: str, message: str) -> str:
    """One test case for a command that has no verdict: an error, which is no failed check.

    Args:
        command: Name of the command.
        kind: The error's id.
        message: What and where, and what to do next.
    """
    root = ET.Element("testsuite", name=_SUITE)
    case = ET.SubElement(root, "testcase", classname=f"{_SUITE}.{command}", name="completed")
    text = visible(message, lines=True)
    ET.SubElement(case, "error", type=kind, message=text).text = text
    return _counted(root, errors=1)


def _counted(root: ET.Element, *, failures: int = 0, errors: int = 0, skipped: int = 0) -> str:
    counts = {"failures": failures, "errors": errors, "skipped": skipped}
    for name, count in {"tests": len(root), **counts}.items():
        root.set(name, str(count))
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=False) + "\n"


def verdicts_of(report: Report) -> dict[str, Verdict]:
    """The verdict on each target of a run."""
    return {
        name: Verdict(part.verdict, part.reason, part.checks)
        for name, part in report.targets.items()
    }


def explanations_of(report: Report) -> dict[str, list[str]]:
    """What the report finds of each target, and of the run as a whole."""
    return {
        name: [finding.text for finding in report.findings if finding.target in (name, None)]
        for name in report.targets
    }


def tell_ci(
    verdicts: Mapping[str, Verdict],
    *,
    explained: Explained | None = None,
    junit: Path | None,
    annotations: bool,
    say: Callable[[str], None],
) -> None:
    """Tells a CI system what it was asked to be told.

    Args:
        verdicts: Verdict by engine.
        explained: What explains the verdict of an engine.
        junit: Where the JUnit file goes; ``None`` for none.
        annotations: Whether to say GitHub's workflow commands.
        say: Takes each command, a line.

    Raises:
        StorageError: The file cannot be written.
    """
    if junit is not None:
        write_junit(junit_xml(verdicts, explained=explained), junit)
    for line in github_annotations(verdicts, explained) if annotations else ():
        say(line)


def tell_ci_error(
    command: str,
    kind: str,
    message: str,
    *,
    junit: Path | None,
    annotations: bool,
    say: Callable[[str], None],
) -> None:
    """Tells a CI system that a command ended without a verdict.

    Args:
        command: Name of the command.
        kind: The error's id.
        message: What and where, and what to do next.
        junit: Where the JUnit file goes; ``None`` for none.
        annotations: Whether to say GitHub's workflow command.
        say: Takes it, a line.

    Raises:
        StorageError: The file cannot be written.
    """
    if junit is not None:
        write_junit(error_xml(command, kind, message), junit)
    if annotations:
        say(f"::error title={_property(f'edgeres {command}: {kind}')}::{_data(message)}")


def write_junit(xml: str, path: Path) -> None:
    """Writes what :func:`junit_xml` or :func:`error_xml` gives as a file.

    Raises:
        StorageError: The file cannot be written.
    """
    write_atomic(path, f'<?xml version="1.0" encoding="utf-8"?>\n{xml}'.encode())


def github_annotations(
    verdicts: Mapping[str, Verdict], explained: Explained | None = None
) -> list[str]:
    """One workflow command for each verdict; printed, GitHub shows it on the run's page."""
    explanations = explained or {}
    level = {"pass": "notice", "not_executed": "notice", "inconclusive": "warning", "fail": "error"}
    return [
        f"::{level[verdict.outcome]} title={_property(f'edgeres {engine}: {verdict.outcome}')}::"
        + _data(
            " ".join([verdict.reason, *(explanations.get(engine, ()) if _bad(verdict) else ())])
        )
        for engine, verdict in verdicts.items()
    ]


def _bad(verdict: Verdict) -> bool:
    return verdict.outcome in ("fail", "inconclusive")


def _data(text: str) -> str:
    """Escapes the message of a workflow command, so that no text can start another one."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
