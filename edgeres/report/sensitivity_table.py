"""What a person reads of the layers' sensitivities."""

from __future__ import annotations

from rich.console import ConsoleRenderable, Group
from rich.table import Table
from rich.text import Text

from edgeres.quantization.sensitivity import Effect, Sensitivity
from edgeres.report import cells
from edgeres.sqnr import EQUAL_DB


def sensitivity_table(found: Sensitivity) -> ConsoleRenderable:
    """The layers, the most sensitive first, with each one's share of the noise."""
    table = Table(box=None, pad_edge=False)
    longest = max((len(x.node) for x in found.nodes), default=0)
    table.add_column("Layer\n", overflow="fold", min_width=min(longest, 28))
    table.add_column("Op\n", overflow="fold")
    both = any(node.all_but is not None for node in found.nodes)
    headings = ["MACs\n%", "only it\nSQNR dB", "only it\nagree %"]
    headings += ["all but it\nSQNR dB", "all but it\nagree %"] if both else []
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
    sqnr, agreement = _cells(whole)
    accuracy = ""
    if whole.top1 is not None and found.fp32_top1 is not None:
        accuracy = f", top-1 {cells.percent(found.fp32_top1)} -> {cells.percent(whole.top1)} %"
    line = (
        f"All in INT8 ({found.rules}, simulated, {found.samples} images): SQNR {sqnr} dB, "
        f"{agreement} % agree with FP32{accuracy}."
    )
    return Group(table, Text(), Text(line))


def _cells(effect: Effect) -> list[str]:
    sqnr = "equal" if effect.sqnr_db >= EQUAL_DB else f"{effect.sqnr_db:.1f}"
    return [sqnr, cells.percent(effect.agreement, 1)]
