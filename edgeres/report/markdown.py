"""The report as Markdown, for release notes and pull requests. Needs no further package."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from edgeres.report import cells
from edgeres.report.explain import merged
from edgeres.report.figures import accuracy_rows, headline, pruned_headline
from edgeres.report.schema import Report, TargetPart
from edgeres.system.foreign_text import visible

_ENTITIES = {"<": "&lt;", ">": "&gt;"}  # a backslash does not keep a tag from being one
_MARKS = frozenset("\\`*[]|#")


def report_markdown(report: Report, *, name: str = "") -> str:
    """Summary, table, verdicts and findings of a run.

    Args:
        report: What the run found.
        name: Title; the model's name where empty.
    """
    model, machine = report.model, report.environment
    lines = [
        f"# {plain(name or model.name)}",
        "",
        f"{plain(model.name)}, {cells.millions(model.parameters)} parameters, "
        f"{cells.millions(model.macs)} MACs; {plain(headline(report))}.",
    ]
    if report.pruning is not None:
        pruned = report.pruning
        lines += [
            "",
            f"Pruned to {100 * pruned.macs_ratio:.0f} % of the MACs, "
            f"{cells.millions(pruned.parameters)} parameters: {plain(pruned_headline(report))}.",
        ]
    lines += ["", *results_table(report), "", "## Verdicts", ""]
    for target, part in report.targets.items():
        word = cells.VERDICT_WORDS[part.verdict]
        lines.append(f"- **{word}** {plain(target)}: {plain(part.reason)}")
    if report.winner is not None:
        lines += ["", f"**Deploy** {plain(report.winner.text)}"]
    if report.findings:
        lines += ["", "## Findings", ""]
        for told in merged(report.findings):
            where = f" ({plain(', '.join(told.targets))})" if told.targets else ""
            lines.append(f"- {told.level}{where}: {plain(told.text)}")
    kind = "with" if machine.int8_dot_products else "without"
    lines += [
        "",
        "## Measured on",
        "",
        f"{plain(machine.machine)}, {machine.threads} usable CPUs, {kind} INT8 instructions; "
        f"{plain(machine.os)}, Python {plain(machine.python)}.",
        "",
    ]
    lines += [
        f"- {plain(target)}: {plain(part.runtime)} on {plain(part.device)}"
        for target, part in report.targets.items()
        if part.runtime
    ]
    return "\n".join(lines).rstrip() + "\n"


def results_table(report: Report) -> list[str]:
    """The figures of all targets as lines of a Markdown table, one column for each target."""
    rows: list[tuple[str, Iterable[str]]] = [
        *(
            (plain(row.label), _each(report, row.cell))
            for row in accuracy_rows(report, "→", "≤ ", every=True)
        ),
        ("SQNR dB", _each(report, cells.sqnr)),
        ("INT8 % of MACs", _each(report, lambda t: cells.percent(t.int8_coverage, 1))),
        ("Latency ms p50 / p90 / p99", _each(report, lambda t: cells.latency(t.latency_ms))),
        ("Speed-up", _each(report, cells.steady_speedup)),
        ("Size", _each(report, lambda t: cells.size(t.size_bytes))),
        ("Verdict", _each(report, lambda t: cells.VERDICT_WORDS[t.verdict])),
    ]
    lines = [
        "| | " + " | ".join(map(plain, report.targets)) + " |",
        "|---|" + "---:|" * len(report.targets),
    ]
    return lines + [f"| {label} | " + " | ".join(texts) + " |" for label, texts in rows]


def plain(text: str) -> str:
    """A text that Markdown shows as it is, on one line: no table, link, tag or emphasis in it."""
    shown = visible(" ".join(text.split()))
    return "".join(_ENTITIES.get(c, f"\\{c}" if c in _MARKS else c) for c in shown)


def _each(report: Report, cell: Callable[[TargetPart], str]) -> list[str]:
    return [cell(target) for target in report.targets.values()]
