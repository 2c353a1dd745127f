"""One HTML file that shows a run of ``convert`` to people: opens offline, asks nobody for anything.

Everything is inline: charts are SVG, pictures data URIs, and the script only switches the theme,
orders the layers and draws the chosen block. The content security policy of the page forbids all
requests.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeres.errors import ArtefactError
from edgeres.evaluation import run_folder
from edgeres.report import cells, charts
from edgeres.report.block_picture import block_data, block_svg
from edgeres.report.evidence import LATENCY, RECIPE, TargetEvidence, TargetTimes, read_target
from edgeres.report.explain import merged
from edgeres.report.figures import accuracy_rows, pruned_headline
from edgeres.report.history import Change, Row, runtime_changes
from edgeres.report.page_target import shown_target
from edgeres.report.schema import AgreementMatrix, Report, read_report
from edgeres.system.extras import import_extra
from edgeres.system.foreign_text import visible
from edgeres.system.publish import refuse_half_handover
from edgeres.system.stored_json import read_json_object, read_stored

if TYPE_CHECKING:
    from markupsafe import Markup

_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Output:
    """What a run of ``convert`` left in its folder.

    Attributes:
        folder: The folder.
        report: Its ``report.json``.
        evidence: Target to what is kept of it.
        times: Target to its latency record; empty for outputs without.
        recipe: What was asked for.
    """

    folder: Path
    report: Report
    evidence: Mapping[str, TargetEvidence]
    times: Mapping[str, TargetTimes]
    recipe: Mapping[str, Any]


def read_output(folder: Path) -> Output:
    """Reads an output folder of ``convert``; evidence that an older one does not have is empty.

    Raises:
        ArtefactError: No report there, a damaged file, or files of two runs.
    """
    refuse_half_handover(folder)
    report = read_report(folder / run_folder.REPORT)
    evidence = folder / run_folder.EVIDENCE
    times, recipe = evidence / LATENCY, evidence / RECIPE
    return Output(
        folder,
        report,
        {name: read_target(evidence, name) for name in report.targets},
        read_stored(times, dict[str, TargetTimes]) if times.is_file() else {},
        read_json_object(recipe) if recipe.is_file() else {},
    )


def report_page(output: Output, history: Sequence[Row] = ()) -> str:
    """The page, one self-contained HTML text.

    Args:
        output: See :func:`read_output`.
        history: Results over time, for a section of their own; none where empty.

    Raises:
        ArtefactError: A file of the output is damaged.
        BackendMissingError: The packages that draw charts are not installed.
    """
    report = output.report
    content: dict[str, Any] = {
        "report": report,
        "name": str(output.recipe.get("name") or report.model.name),
        "targets": {
            name: shown_target(
                output.folder, name, part, output.evidence[name], output.times.get(name)
            )
            for name, part in report.targets.items()
        },
        "accuracy": accuracy_rows(report, "→", "≤ "),
        "figures": accuracy_rows(report, "→", "≤ ", every=True),
        "pruned": pruned_headline(report),
        "findings": merged(report.findings),
        "drops": charts.drops(report),
        "pareto": charts.pareto(report),
        "matrix": _square(report.agreement_matrix),
        "recipe": _yaml(output.recipe),
        "history": _history(history),
        "total_seconds": sum(stage.seconds for stage in report.stages),
    }
    whole = render("page.html.j2", size="", **content)
    return render("page.html.j2", size=cells.size(len(whole.encode())), **content)


def render(template: str, **content: Any) -> str:
    """Fills a template; everything that is not markup of our own is escaped.

    Raises:
        BackendMissingError: The template engine is not installed.
    """
    import_extra("jinja2", extra="report", user="the report page")
    from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=select_autoescape(["html.j2"], default_for_string=True, default=True),
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {
        "cells": cells,
        "verdict_words": cells.VERDICT_WORDS,
        "block_svg": block_svg,
        "block_data": block_data,
    }
    environment.globals["inline"] = lambda name: Markup((_TEMPLATES / name).read_text("utf-8"))
    environment.filters["svg"] = Markup
    environment.filters["coded"] = _coded
    return environment.get_template(template).render(**content)


def _coded(text: str) -> Markup:
    """A sentence whose words in backticks stand in the letters of code."""
    from markupsafe import Markup, escape

    parts = visible(text, lines=True).split("`")
    if len(parts) % 2 == 0:  # an odd backtick is one
        return escape("`".join(parts))
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if number % 2 else escape(part)
        for number, part in enumerate(parts)
    )


def _shown(value: object) -> object:
    """What a place in the template gets; text of any kind is only shown."""
    return type(value)(visible(value, lines=True)) if isinstance(value, str) else value


@dataclass(frozen=True)
class ShownHistory:
    """Runs over time: rows, what changed with a runtime, and charts."""

    rows: list[Row]
    changes: list[Change]
    latency: str | None
    top1: str | None


def _history(rows: Sequence[Row]) -> ShownHistory | None:
    """Runs over time, drawn and as rows, and what changed with a runtime."""
    if not rows:
        return None
    in_percent = [replace(row, top1=None if row.top1 is None else 100 * row.top1) for row in rows]
    return ShownHistory(
        rows=in_percent,
        changes=runtime_changes(rows),
        latency=charts.drift(in_percent, "p50_ms", "latency p50, ms", least=0.001),
        top1=charts.drift(in_percent, "top1", "top-1, %", least=0.02),
    )


def _square(matrix: AgreementMatrix | None) -> AgreementMatrix | None:
    """The agreement between every two networks, where the report has it.

    Raises:
        ArtefactError: It is no square of shares.
    """
    if matrix is None:
        return None
    sides = {len(matrix.agreement), *map(len, matrix.agreement)}
    if sides != {len(matrix.names)} or not matrix.names:
        raise ArtefactError(
            f"{run_folder.REPORT}: agreement_matrix is no square of shares.",
            hint="Run `edgeres convert` again.",
        )
    return matrix


def _yaml(recipe: Mapping[str, Any]) -> str:
    """A recipe as the YAML that a person would write."""
    if not recipe:
        return ""
    from ruamel.yaml import YAML

    stream = io.StringIO()
    yaml = YAML()
    yaml.default_flow_style = None
    yaml.dump(dict(recipe), stream)
    return stream.getvalue()
