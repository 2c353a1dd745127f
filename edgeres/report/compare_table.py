"""What a person reads of a layer-by-layer comparison."""

from __future__ import annotations

from rich.console import ConsoleRenderable, Group
from rich.text import Text

from edgeres.evaluation.distances import EngineDistance
from edgeres.evaluation.layerwise import LayerComparison
from edgeres.report import cells
from edgeres.report.folding import FoldingTable
from edgeres.sqnr import EQUAL_DB

_TOLD = 5


def layers_table(found: LayerComparison) -> ConsoleRenderable:
    """The layers, noisiest first, then the outputs and what stands out."""
    table = FoldingTable()
    longest = max((len(x.node) for x in found.layers), default=0)
    table.add_column("Layer\n", overflow="fold", min_width=min(longest, 28))
    table.add_column("Op\n", overflow="fold")
    for heading in ("own dB\nB vs A", "dB so far\nB vs A"):
        table.add_column(heading, justify="right", no_wrap=True)
    engines = [
        letter
        for letter, has in (
            ("A", any(layer.reference for layer in found.layers)),
            ("B", any(layer.candidate for layer in found.layers)),
        )
        if has
    ]
    for letter in engines:
        table.add_column(f"{letter}: steps\noff source", justify="right", no_wrap=True)
        table.add_column(f"{letter}: dB off\nsource", justify="right", no_wrap=True)
        table.add_column(f"{letter}: runs\nin", no_wrap=True)
    for layer in found.worst_first:
        row = [layer.node, layer.op, _decibels(layer.own_sqnr_db), _decibels(layer.sqnr_db)]
        for letter in engines:
            row += _engine_cells(layer.reference if letter == "A" else layer.candidate)
        table.add_row(*map(Text, row))
    out = found.output
    lines = [
        Text(f"A {found.reference}\nB {found.candidate}"),
        Text(
            f"Outputs on {out.samples} images: SQNR {_decibels(out.sqnr_db)} dB, same class "
            f"{cells.percent(out.agreement, 1)} %, largest difference {out.largest_difference:.3g}."
        ),
    ]
    lines += [Text(suspect.text) for suspect in found.suspects[:_TOLD]]
    if len(found.suspects) > _TOLD:
        lines.append(Text(f"and {len(found.suspects) - _TOLD} more; --json lists all."))
    if not found.suspects:
        lines.append(Text("No layer stands out."))
    lines += [Text(f"note: {note}") for note in found.notes]
    return Group(table, Text(), *lines)


def _engine_cells(distance: EngineDistance | None) -> list[str]:
    if distance is None:
        return [cells.MISSING] * 3
    steps = cells.MISSING if distance.max_steps is None else f"{distance.max_steps:.0f}"
    changed = "" if distance.probe_exact else " (changed)"
    return [steps, _decibels(distance.own_sqnr_db), distance.precision + changed]


def _decibels(value: float | None) -> str:
    if value is None:
        return cells.MISSING
    return "equal" if value >= EQUAL_DB else f"{value:.1f}"
