"""The last lines of `convert`: where the engines are, and the command that comes next."""

from __future__ import annotations

import shlex
from pathlib import Path

from edgeres.bundling.make import BUNDLE
from edgeres.evaluation import run_folder
from edgeres.report import cells
from edgeres.report.schema import Report


def closing_lines(report: Report, folder: Path) -> list[str]:
    """One line for each engine that was written, the report, and what to do next.

    Only engines that passed lead to a bundle; with none the next step is to look at the reasons.

    Args:
        report: What the run found.
        folder: Its output folder.
    """
    built = {name: part for name, part in report.targets.items() if part.built}
    lines = [
        f"Engine: {folder / part.engine} ({name}, {cells.VERDICT_WORDS[part.verdict]})"
        for name, part in built.items()
    ]
    lines.append(f"Report: {folder / run_folder.REPORT}")
    place = shlex.quote(str(folder))
    passed = [name for name, part in built.items() if part.verdict == "pass"]
    if not passed:
        return [*lines, f"Next: edgeres report {place} (a page that shows why no engine passed)"]
    only = "" if len(passed) == len(built) else "".join(f" --target {name}" for name in passed)
    bundle = shlex.quote(str(folder / BUNDLE))
    return [*lines, f"Next: edgeres bundle {place}{only} && edgeres run {bundle} IMAGE..."]
