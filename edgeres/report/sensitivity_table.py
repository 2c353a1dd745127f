"""What a person reads of the layers' sensitivities."""

from __future__ import annotations

from rich.console import ConsoleRenderable, Group
from rich.text import Text

from edgeres.quantization.effect import Effect
from edgeres.quantization.sensitivity import Sensitivity
from edgeres.report import cells
from edgeres.report.folding import FoldingTable
from edgeres.sqnr import EQUAL_DB


def sensitivity_table(found: Sensitivity) -> ConsoleRenderable:
    """The layers, the most sensitive first, with each one's share of the noise."""
    table = FoldingTable()
    longest = max((len(x.node) for x in found.nodes), default=0)
    table.add_column("Layer\n", overflow="fold", min_width=min(longest, 28))
    table.add_column("Op\n", overflow="fold")
    both = any(node.all_but is not None for node in found.nodes)
    own = ["SQNR dB", *(["agree %"] if found.quantized.agreement is not None else [])]
    if found.fp32 is not None:
        own.append(f"{found.metric} {_shown(found.unit)}".rstrip())
    headings = ["MACs\n%", *(f"only it\n{heading}" for heading in own)]
    headings += [f"all but it\n{heading}" for heading in own] if both else []
    for heading in (*headings, "noise\n%"):
        table.add_column(heading, justify="right", no_wrap=True)
    macs = sum(node.macs for node in found.nodes) or 1
    noise = sum(node.only.noise for node in found.nodes)
    for node in found.nodes:
        row = [node.node, node.op, cells.percent(node.macs / macs, 1), *_cells(node.only)]
        if node.all_but is not None:
            row += _cells(node.all_but)
        row.append(cells.percent(node.only.noise / noise, 1))
        table.add_row(*map(Text, row))
    whole = found.quantized
    told = [f"SQNR {_decibels(whole)} dB"]
    if whole.agreement is not None:
        told.append(f"{cells.percent(whole.agreement, 1)} % agree with FP32")
    if whole.figure is not None and found.fp32 is not None:
        unit = f" {_shown(found.unit)}" if found.unit else ""
        told.append(f"{found.metric} {found.fp32:.4g} -> {whole.figure:.4g}{unit}")
    line = f"All in INT8 ({found.rules}, simulated, {found.samples} samples): {', '.join(told)}."
    return Group(table, Text(), Text(line))


def _cells(effect: Effect) -> list[str]:
    figures = [_decibels(effect)]
    if effect.agreement is not None:
        figures.append(cells.percent(effect.agreement, 1))
    if effect.figure is not None:
        figures.append(f"{effect.figure:.4g}")
    return figures


def _decibels(effect: Effect) -> str:
    return "equal" if effect.sqnr_db >= EQUAL_DB else f"{effect.sqnr_db:.1f}"


def _shown(unit: str) -> str:
    return "%" if unit == "pp" else unit
