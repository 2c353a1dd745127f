"""The last lines of `convert`: where the engines are, and how to deploy the one to deploy."""

from __future__ import annotations

import shlex
from pathlib import Path

from edgeres.bundling.make import BUNDLE
from edgeres.evaluation import run_folder
from edgeres.report import cells
from edgeres.report.schema import Report

FP32 = "fp32/model"


def closing_lines(report: Report, folder: Path) -> list[str]:
    """One line for each engine that was written, the report, and what to do next.

    The winner leads to a bundle, or, where that is the FP32 network, to its engine. With no engine
    that passed the next step is to look at the reasons.

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
    winner = report.winner
    if winner is not None and not winner.engine:
        fed = folder / run_folder.BASELINE / run_folder.FED
        network = fed if fed.is_file() else fed.with_name(run_folder.MODEL)
        onnx = shlex.quote(str(network))
        out = shlex.quote(str(folder / FP32))
        return [*lines, f"Next: edgeres build {onnx} --target {winner.target} --output {out}"]
    chosen = passed if winner is None else [winner.target]
    only = "" if len(chosen) == len(built) else "".join(f" --target {name}" for name in chosen)
    bundle = shlex.quote(str(folder / BUNDLE))
    return [*lines, f"Next: edgeres bundle {place}{only} && edgeres run {bundle} IMAGE..."]
