"""One HTML file that shows a run of ``convert`` to people: opens offline, asks nobody for anything.

Everything is inline: charts are SVG, pictures data URIs, and the few lines of script only switch
the theme and the shown block. The content security policy of the page forbids all requests.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeres.errors import ArtefactError
from edgeres.evaluation import run_folder
from edgeres.report import cells, charts
from edgeres.report.block_graph import residual_blocks
from edgeres.report.evidence import (
    LATENCY,
    RECIPE,
    Answers,
    Flip,
    TargetEvidence,
    read_record,
    read_target,
)
from edgeres.report.history import Row, as_dicts, runtime_changes
from edgeres.report.page_layers import layer_rows, standing_out
from edgeres.report.schema import Report, TargetPart, read_report
from edgeres.system.extras import import_extra
from edgeres.system.publish import refuse_half_handover

_TEMPLATES = Path(__file__).parent / "templates"
_MOVES = 10  # changed answers that are listed
_MEDIA = {".png": "image/png", ".jpg": "image/jpeg"}


@dataclass(frozen=True)
class Output:
    """What a run of ``convert`` left in its folder.

    Attributes:
        folder: The folder.
        report: Its ``report.json``.
        raw: The same as plain JSON: fields that this version does not know are only there.
        evidence: Target to what is kept of it.
        times: Target to its latency record; empty for outputs without.
        recipe: What was asked for.
    """

    folder: Path
    report: Report
    raw: Mapping[str, Any]
    evidence: Mapping[str, TargetEvidence]
    times: Mapping[str, Any]
    recipe: Mapping[str, Any]


def read_output(folder: Path) -> Output:
    """Reads an output folder of ``convert``; evidence that an older one does not have is empty.

    Raises:
        ArtefactError: No report there, a damaged file, or files of two runs.
    """
    refuse_half_handover(folder)
    report = read_report(folder / run_folder.REPORT)
    kept = folder / run_folder.EVIDENCE
    return Output(
        folder,
        report,
        read_record(folder / run_folder.REPORT),
        {name: read_target(kept, name) for name in report.targets},
        read_record(kept / LATENCY),
        read_record(kept / RECIPE),
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
    return render(
        "page.html.j2",
        report=report,
        name=str(output.recipe.get("name") or report.model.name),
        targets={name: _target(output, name, part) for name, part in report.targets.items()},
        drops=charts.drops(report),
        pareto=charts.pareto(report),
        matrix=_matrix(output.raw.get("agreement_matrix")),
        recipe=_yaml(output.recipe),
        history=_history(history),
        total_seconds=sum(stage.seconds for stage in report.stages),
    )


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
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"cells": cells, "verdict_words": cells.VERDICT_WORDS}
    environment.globals["inline"] = lambda name: Markup((_TEMPLATES / name).read_text("utf-8"))
    environment.filters["svg"] = Markup
    return environment.get_template(template).render(**content)


def _target(output: Output, name: str, part: TargetPart) -> dict[str, Any]:
    """What the template shows of one target."""
    evidence = output.evidence[name]
    qdq = output.folder / name / run_folder.QDQ
    rows = layer_rows(output.folder, name, part, evidence)
    precisions = {row["node"]: row["precision"] for row in rows}
    answers = evidence.answers
    return {
        "part": part,
        "flips": [_flip(output.folder / run_folder.EVIDENCE, flip) for flip in evidence.flips],
        "moves": _moves(answers) if answers is not None else [],
        "confusion": charts.confusion(answers) if answers is not None else None,
        "known": answers is not None,
        "changed": int((answers.dense != answers.engine).sum()) if answers is not None else 0,
        "layers": rows,
        "standing_out": standing_out(output.folder / run_folder.EVIDENCE, name),
        "weights": charts.weight_noise(rows),
        "noise": charts.layer_noise(rows),
        "sensitivity": charts.layer_sensitivity(rows),
        "blocks": residual_blocks(qdq, precisions) if qdq.is_file() else [],
        "times": output.times.get(name),
        "latency": charts.latency(output.times.get(name) or {}, cells.engine_kind(part)),
    }


def _moves(answers: Answers) -> list[dict[str, Any]]:
    """The most frequent changes of an answer: true class, answers before and after, images."""
    counts: dict[tuple[int, int, int], int] = {}
    moved = answers.dense != answers.engine
    for move in zip(
        answers.labels[moved].tolist(),
        answers.dense[moved].tolist(),
        answers.engine[moved].tolist(),
        strict=True,
    ):
        counts[move] = counts.get(move, 0) + 1
    names = (*answers.class_names, "not a number")  # the answer -1 is the last one
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [
        {
            "label": names[label],
            "before": names[before],
            "after": names[after],
            "count": count,
            "kind": "lost" if before == label else "gained" if after == label else "still wrong",
        }
        for (label, before, after), count in ordered[:_MOVES]
    ]


def _history(rows: Sequence[Row]) -> dict[str, Any] | None:
    """Runs over time, drawn and as rows, and what changed with a runtime."""
    if not rows:
        return None
    plain = as_dicts(rows)
    for row in plain:
        row["top1"] = None if row["top1"] is None else 100 * row["top1"]
    return {
        "rows": plain,
        "changes": runtime_changes(rows),
        "latency": charts.drift(plain, "p50_ms", "latency p50, ms"),
        "top1": charts.drift(plain, "top1", "top-1, %"),
    }


def _flip(folder: Path, flip: Flip) -> dict[str, Any]:
    shown = None
    if flip.image is not None:
        file = folder / Path(flip.image).name
        media = _MEDIA.get(file.suffix)
        if media is not None and file.is_file():
            data = base64.b64encode(file.read_bytes()).decode("ascii")
            shown = f"data:{media};base64,{data}"
    return {**vars(flip), "source": shown}


def _matrix(found: Any) -> dict[str, Any] | None:
    """The agreement between every two networks, where the report has it.

    Raises:
        ArtefactError: It is no square of shares.
    """
    if not found:
        return None
    try:
        names = [str(name) for name in found["names"]]
        rows = [[float(share) for share in row] for row in found["agreement"]]
    except (TypeError, KeyError, ValueError):
        names, rows = [], []
    if {len(rows), *map(len, rows)} != {len(names)} or not names:
        raise ArtefactError(
            f"{run_folder.REPORT}: agreement_matrix is no square of shares.",
            hint="Run `edgeres convert` again.",
        )
    return {"names": names, "rows": rows}


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
