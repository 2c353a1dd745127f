"""One table over many devices."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import ConsoleRenderable, Group
from rich.text import Text

from edgeres.devices.fleet import FleetResult
from edgeres.report import cells
from edgeres.report.folding import FoldingTable


def fleet_table(results: Sequence[FleetResult]) -> ConsoleRenderable:
    """Latency of every engine on every device, then what went wrong or is doubtful."""
    table = FoldingTable()
    table.add_column("Device", overflow="fold")
    table.add_column("Engine", overflow="fold", min_width=14)
    for heading in ("p50 ms", "p90 ms", "p99 ms", "Speed-up", "Memory", "Times"):
        table.add_column(heading, justify="right", no_wrap=True)
    lines: list[Text] = []
    for result in results:
        if result.error is not None or result.found is None:
            lines.append(Text(f"{result.name}: error: {result.error}"))
            continue
        machine = result.found["environment"]
        named = ", ".join(filter(None, [machine["cpu"], machine.get("board")]))
        lines.append(Text(f"{result.name}: {named}, {machine['threads']} CPUs"))
        for name, part in result.found["engines"].items():
            times, ratio, memory = (
                part["latency_ms"],
                part.get("speedup"),
                part["peak_memory_bytes"],
            )
            texts = (
                result.name,
                name,
                *(cells.milliseconds(times[key]) for key in ("p50", "p90", "p99")),
                cells.MISSING if ratio is None else f"{ratio:.2f}x",
                cells.MISSING if memory is None else cells.size(memory),
                "doubtful" if part["doubts"] else "steady",
            )
            table.add_row(*map(Text, texts))
            lines += [Text(f"{result.name}: unstable: {doubt}") for doubt in part["doubts"]]
            if (spent := part.get("energy")) is not None:
                lines.append(
                    Text(
                        f"{result.name}: {name}: {cells.energy(spent['joules'])} an inference, "
                        f"{cells.energy(spent['above_idle'])} above idle"
                    )
                )
        lines.append(Text(f"{result.name}: deploy {_deploy(result)}"))
    return Group(table, Text(), *lines)


def _deploy(result: FleetResult) -> str:
    """The engine to take to one device, and by how much it wins."""
    won = result.winner
    if won is None or result.found is None:
        return cells.MISSING
    text = f"{won.engine}, {cells.milliseconds(won.p50_ms)} ms"
    if won.margin is None:
        return f"{text}, the only one measured"
    if won.is_close:
        return f"{text}, less than 2 % before the next: take the more exact of the two"
    doubt = "; the times are doubtful, measure again" if result.verdict == "doubtful" else ""
    return f"{text}, {won.margin:.2f} times as fast as the next{doubt}"


def fleet_exit_code(results: Sequence[FleetResult]) -> int:
    """That of the first device that failed, else 1 where times are unstable, else 0."""
    for result in results:
        if result.error is not None:
            return result.error.exit_code
    return 0 if all(result.found and result.found["stable"] for result in results) else 1
