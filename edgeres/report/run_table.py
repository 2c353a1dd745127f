"""The table that `convert` prints, for any width, with or without colour.

Where the width allows, one line for each target (about 110 columns); else one column for each, in
as many tables as it takes. Everything that a colour says is also said in words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import islice

from rich import box
from rich.console import Console, ConsoleRenderable, Group
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from edgeres.report import cells
from edgeres.report.explain import merged
from edgeres.report.figures import accuracy_rows, headline, pruned_headline
from edgeres.report.schema import AgreementMatrix, Finding, Report, TargetPart

_LABEL_WIDTH = 23
_TARGET_WIDTH = 18
_STYLES = {
    "pass": "bold green",
    "fail": "bold red",
    "inconclusive": "bold yellow",
    "not_executed": "bold cyan",
}


def report_table(
    report: Report, console: Console, *, read: Sequence[str] = ()
) -> ConsoleRenderable:
    """The whole summary of a run: what was converted, the targets, verdicts, findings.

    Args:
        report: What the run found.
        console: Where it will be printed; its width and character set decide the layout.
        read: What stands above it already, such as ``warning: TEXT``; it is not said again.
    """
    unicode = console.encoding.lower().startswith("utf")
    table: ConsoleRenderable = _wide(report, unicode)
    unbounded = console.options.update(width=10_000)
    if Measurement.get(console, unbounded, table).maximum > console.width:
        table = _narrow(report, unicode, console.width)
    parts: list[ConsoleRenderable] = [_heading(report), Text(), table, Text()]
    if report.agreement_matrix is not None and len(report.agreement_matrix.names) > 2:
        parts += [_agreement(report.agreement_matrix, console), Text()]
    parts += [_verdict(name, target) for name, target in report.targets.items()]
    unread = [each for each in report.findings if f"{each.level}: {each.text}" not in read]
    if unread:
        parts.append(Text())
        parts += _findings(unread)
    if report.winner is not None:
        parts += [Text(), _hanging(Text("Deploy: ", "bold"), Text(report.winner.text))]
    return Group(*parts)


def _heading(report: Report) -> Text:
    """What was converted, on what data and machine."""
    model, machine = report.model, report.environment
    lines = [
        f"{model.name}: {cells.millions(model.parameters)} parameters, "
        f"{cells.millions(model.macs)} MACs, {headline(report)}"
    ]
    if report.pruning is not None:
        pruned = report.pruning
        lines.append(
            f"pruned to {100 * pruned.macs_ratio:.0f} % of the MACs, "
            f"{cells.millions(pruned.parameters)} parameters: {pruned_headline(report)}"
        )
        if pruned.latency is not None:
            latency = pruned.latency
            measurement = (
                "" if latency.measured_ms is None else f", measured {latency.measured_ms:.3g} ms"
            )
            part = report.targets.get(latency.target)
            kind = cells.precision(report.targets.values() if part is None else [part])
            lines.append(
                f"pruned by {kind} latency on {latency.target}: dense {latency.dense_ms:.3g} ms, "
                f"predicted {latency.predicted_ms:.3g} ms{measurement}"
            )
            if latency.kept == "uniform" and latency.uniform_ms is not None:
                lines.append(
                    "even widths of as many MACs were measured to be faster than those by latency "
                    f"({latency.uniform_ms:.3g} ms) and are kept"
                )
    threads = "1 CPU" if machine.threads == 1 else f"{machine.threads} CPUs"
    kind = "with" if machine.int8_dot_products else "without"
    lines.append(f"{machine.machine}, {threads}, {kind} INT8 instructions")
    return Text("\n".join(lines))


def _wide(report: Report, unicode: bool) -> Table:
    arrow, at_most = _signs(unicode)
    accuracy = accuracy_rows(report, arrow, at_most)
    table = _table(unicode)
    table.add_column("Target\n")
    for heading in (
        *(row.heading for row in accuracy),
        "SQNR\ndB",
        "INT8\n%",
        "Latency ms\np50 / p90 / p99",
        "Speed\n-up",
        "Size\nMiB",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("Verdict\n", no_wrap=True)
    for name, target in report.targets.items():
        table.add_row(
            name,
            *(row.cell(target) for row in accuracy),
            cells.sqnr(target),
            cells.percent(target.int8_coverage, 1),
            cells.latency(target.latency_ms),
            cells.speedup(target),
            cells.mebibytes(target.size_bytes),
            Text(cells.VERDICT_WORDS[target.verdict], style=_STYLES[target.verdict]),
        )
    return table


def _narrow(report: Report, unicode: bool, width: int) -> ConsoleRenderable:
    fitting = max(1, (width - _LABEL_WIDTH) // _TARGET_WIDTH)
    names = iter(report.targets)
    tables: list[ConsoleRenderable] = []
    while group := tuple(islice(names, fitting)):
        targets = {name: report.targets[name] for name in group}
        tables.append(_columns(report, targets, unicode))
    return Group(*tables)


def _columns(report: Report, targets: Mapping[str, TargetPart], unicode: bool) -> Table:
    arrow, at_most = _signs(unicode)
    table = _table(unicode)
    table.add_column("")
    for name in targets:
        table.add_column(name, justify="right")
    rows: Sequence[tuple[str, Callable[[TargetPart], str | Text]]] = (
        *((row.label, row.cell) for row in accuracy_rows(report, arrow, at_most)),
        ("SQNR dB", cells.sqnr),
        ("INT8 % of MACs", lambda t: cells.percent(t.int8_coverage, 1)),
        ("Latency ms p50", lambda t: _time(t, "p50")),
        ("           p90", lambda t: _time(t, "p90")),
        ("           p99", lambda t: _time(t, "p99")),
        ("Speed-up", cells.speedup),
        ("Size", lambda t: cells.size(t.size_bytes)),
        ("Verdict", lambda t: Text(cells.VERDICT_WORDS[t.verdict], style=_STYLES[t.verdict])),
    )
    for label, cell in rows:
        table.add_row(label, *(cell(target) for target in targets.values()))
    return table


def _agreement(matrix: AgreementMatrix, console: Console) -> ConsoleRenderable:
    """Each pair of models: same class in percent, and SQNR; in lines where it is too wide."""
    table = _table(console.encoding.lower().startswith("utf"))
    table.add_column("Agree % (SQNR dB)")
    for name in matrix.names[1:]:
        table.add_column(name, justify="right", no_wrap=True)
    pairs: list[str] = []
    for row, name in enumerate(matrix.names[:-1]):
        texts = []
        for column in range(1, len(matrix.names)):
            sqnr = matrix.sqnr_db[row][column]
            noise = "equal" if sqnr is None else f"{sqnr:.1f}"
            text = f"{cells.percent(matrix.agreement[row][column])} ({noise})"
            texts.append(text if column > row else "")
            if column > row:
                pairs.append(f"{name}, {matrix.names[column]}: {text}")
        table.add_row(name, *texts)
    unbounded = console.options.update(width=10_000)
    if Measurement.get(console, unbounded, table).maximum > console.width:
        return Text("Agree % (SQNR dB) of each pair:\n" + "\n".join(pairs))
    return table


def _table(unicode: bool) -> Table:
    return Table(
        box=box.SIMPLE_HEAD if unicode else box.ASCII_DOUBLE_HEAD,
        padding=(0, 1),
        pad_edge=False,
        collapse_padding=True,
    )


def _time(target: TargetPart, name: str) -> str:
    times = target.latency_ms
    return cells.milliseconds(None if times is None else getattr(times, name))


def _verdict(name: str, target: TargetPart) -> ConsoleRenderable:
    word = Text(f"{cells.VERDICT_WORDS[target.verdict]} ", style=_STYLES[target.verdict])
    return _hanging(word, Text(f"{name}: {target.reason or 'no reason given.'}"))


def _findings(findings: Sequence[Finding]) -> list[ConsoleRenderable]:
    """One paragraph for each text; targets with the same text share it."""
    parts = []
    for told in merged(findings):
        mark = Text("note: ", "cyan") if told.level == "info" else Text("warning: ", "yellow")
        names = ", ".join(told.targets)
        parts.append(_hanging(mark, Text(f"{names}: {told.text}" if names else told.text)))
    return parts


def _hanging(mark: Text, text: Text) -> ConsoleRenderable:
    """A paragraph whose further lines are indented."""
    table = Table.grid(padding=0)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row(mark, text)
    return table


def _signs(unicode: bool) -> tuple[str, str]:
    """Arrow and "at most" in the character set of the terminal."""
    return ("→", "≤ ") if unicode else ("->", "<= ")
