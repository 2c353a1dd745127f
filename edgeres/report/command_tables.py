"""What a person reads of one engine: accuracy, latency, layers; and of the machine."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import ConsoleRenderable, Group
from rich.table import Table
from rich.text import Text

from edgeres.backends.doctor import Health
from edgeres.benchmarking.benchmark import Benchmark
from edgeres.benchmarking.loadgen_summary import LoadGenResult
from edgeres.benchmarking.runtime_options import Tuning
from edgeres.evaluation.compare import Comparison
from edgeres.evaluation.inspect import Inspection
from edgeres.evaluation.judge import Judgement
from edgeres.evaluation.qdq_check import finding_lines
from edgeres.evaluation.validate import Validation
from edgeres.report import cells
from edgeres.report.folding import FoldingTable


def validation_table(found: Validation) -> ConsoleRenderable:
    """An engine's accuracy beside its baseline's, and the verdict with its reason."""
    c = found.comparison
    table = _facts()
    rows = (
        ("Engine", f"{found.engine.path} ({found.engine.backend}, {found.engine.device})"),
        ("Samples", f"{c.samples:,}"),
        *(_of_classes(c) if isinstance(c, Comparison) else _of_task(c)),
    )
    for name, value in rows:
        _add(table, name, value)
    if found.coverage is not None:
        _add(table, "INT8 % of MACs", cells.percent(found.coverage.int8_coverage, 1))
    if found.left_out:
        _add(table, "Left out", found.left_out)
    if found.contradictions:
        _add(table, "Labels", found.contradictions)
    verdict = f"{cells.VERDICT_WORDS[found.verdict.outcome]} {found.verdict.reason}"
    why = [Text(f"Look first at: {found.explanation}")] if found.explanation else []
    findings = [Text(line) for line in finding_lines(found.findings)]
    return Group(table, Text(), Text(verdict), *why, *findings)


def _of_classes(c: Comparison) -> list[tuple[str, str]]:
    return [
        ("Top-1 %", f"{cells.percent(c.baseline_top1)} baseline, {cells.percent(c.top1)} engine"),
        (
            "Drop pp",
            f"{c.drop_pp:+.2f}, at {c.confidence:.4g} confidence between {c.drop_lower_pp:+.2f} "
            f"and {c.drop_upper_pp:+.2f} (McNemar p = {c.p_value:.3g})",
        ),
        (
            "Agreement %",
            f"{cells.percent(c.agreement)} with the baseline, {c.flips.lost} lost, "
            f"{c.flips.gained} gained",
        ),
        ("SQNR dB", "exact" if c.sqnr_db is None else f"{c.sqnr_db:.1f} against the baseline"),
    ]


def _of_task(judged: Judgement) -> list[tuple[str, str]]:
    rows = []
    for name, part in judged.metrics.items():
        unit = f" {part.unit}" if part.unit else ""
        bounds = f"at {judged.confidence:.4g} confidence between"
        if part.fp32 is None:
            text = f"{part.engine:.4g}, {bounds} {-part.drop_upper:.4g} and {-part.drop_lower:.4g}"
        else:
            text = (
                f"{part.fp32:.4g} baseline, {part.engine:.4g} engine, drop {part.drop:+.3g}, "
                f"{bounds} {part.drop_lower:+.3g} and {part.drop_upper:+.3g}"
            )
        rows.append((f"{name}{unit}", text))
    rows += [("Note", note) for note in judged.notes]
    for name, near in judged.outputs.items():
        noise = "exact" if near.sqnr_db is None else f"{near.sqnr_db:.1f} dB"
        text = f"{noise} against the baseline, cosine {near.cosine:.5f}, "
        rows.append((f"Output {name}", f"{text}largest deviation {near.max_deviation:.3g}"))
    return rows


def benchmark_table(
    found: Benchmark, tunings: Mapping[str, Tuning] | None = None
) -> ConsoleRenderable:
    """Latency of the engines that took turns, and what speaks against the numbers.

    Args:
        found: The measurement.
        tunings: What was found for the engines whose run-time options were tried.
    """
    table = FoldingTable()
    table.add_column("Engine", overflow="fold", min_width=14)
    for heading in (
        "Device",
        "p50 ms",
        "p90 ms",
        "p99 ms",
        "Images/s",
        "Speed-up",
        "Load ms",
        "Memory",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    doubts: list[str] = []
    for name, times in found.engines.items():
        latency, ratio = times.latency, times.speedup
        _add(
            table,
            name,
            times.engine.device,
            cells.milliseconds(latency.p50_ms),
            cells.milliseconds(latency.p90_ms),
            cells.milliseconds(latency.p99_ms),
            f"{latency.throughput_per_s:.0f}",
            f"{ratio.value:.2f}x ({ratio.low:.2f}-{ratio.high:.2f})" if ratio else cells.MISSING,
            cells.milliseconds(times.load_ms),
            cells.size(times.memory.engine_bytes) if times.memory else cells.MISSING,
        )
        doubts += [f"{name}: {doubt}" for doubt in latency.doubts]
    lines = [Text(f"unstable: {doubt}") for doubt in dict.fromkeys(doubts)]
    lines += [
        Text(
            f"{name}: {long.verdict} over {long.seconds:.0f} s ({long.drift:+.1%} from the first "
            f"to the last tenth; the CPU itself {long.work_drift:+.1%})"
        )
        for name, times in found.engines.items()
        if (long := times.sustained) is not None
    ]
    lines += [
        Text(
            f"{name}: {cells.energy(spent.joules)} an inference "
            f"({cells.energy(spent.joules_low)} to {cells.energy(spent.joules_high)}), "
            f"{cells.energy(spent.above_idle)} above idle; {spent.watts:.3g} W, idle "
            f"{spent.idle_watts:.3g} W ({spent.meter})"
        )
        for name, times in found.engines.items()
        if (spent := times.energy) is not None
    ]
    lines += [Text(f"{name}: {_tuned(tuning)}") for name, tuning in (tunings or {}).items()]
    return Group(table, *([Text(), *lines] if lines else []))


def _tuned(tuning: Tuning) -> str:
    settings = [f"{name}={value}" for name, value in tuning.options.items()]
    settings += [f"threads={tuning.threads}"] if tuning.threads is not None else []
    if not tuning.kept:
        return f"the default run-time options are the fastest of {tuning.tried} tried"
    return (
        f"kept {', '.join(settings)}: {tuning.gain.value:.2f}x ({tuning.gain.low:.2f}-"
        f"{tuning.gain.high:.2f}), {tuning.tried} tried"
    )


def loadgen_table(runs: Mapping[str, LoadGenResult]) -> ConsoleRenderable:
    """What MLPerf LoadGen found for each engine, with its own verdict."""
    table = FoldingTable()
    table.add_column("Engine", overflow="fold")
    for heading in ("Scenario", "Verdict", "Samples/s", "Latency ms"):
        table.add_column(heading, overflow="fold")
    for name, result in runs.items():
        rate = cells.MISSING if result.samples_per_s is None else f"{result.samples_per_s:.0f}"
        rate += f" ({result.lanes} side by side)" if result.lanes > 1 else ""
        times = [f"{key} {cells.milliseconds(ms)}" for key, ms in result.percentiles_ms.items()]
        verdict = "VALID" if result.valid else f"INVALID: {result.reason}"
        _add(table, name, result.scenario, verdict, rate, ", ".join(times) or cells.MISSING)
    return table


def inspection_table(found: Inspection) -> ConsoleRenderable:
    """Every layer with the precision it runs in, then the INT8 coverage, fusions and remarks."""
    table = FoldingTable()
    table.add_column("Layer", overflow="fold")
    table.add_column("Op", overflow="fold")
    table.add_column("Precision", no_wrap=True)
    table.add_column("ONNX nodes", overflow="fold")
    for layer in found.layers:
        _add(table, layer.name, layer.op, layer.precision, ", ".join(layer.nodes))
    coverage = found.coverage
    lines = [Text(f"{coverage.int8_coverage:.1%} of {coverage.macs:,} MACs run in INT8.")]
    lines += [
        Text(f"not INT8: {layer.name} ({layer.macs:,} MACs): {layer.reason}")
        for layer in coverage.float_layers
    ]
    lines.append(Text(cells.fusions(found.fusions)))
    lines += [Text(f"the builder warns: {text}") for text in found.remarks.warnings]
    lines += [Text(f"note: {text}") for text in found.remarks.notes]
    lines += [Text(text) for text in found.remarks.commands]
    return Group(table, Text(), *lines)


def health_table(found: Health) -> ConsoleRenderable:
    """The machine, and of each backend whether it is ready or what it lacks."""
    machine = found.environment
    facts = _facts()
    _add(facts, "CPU", f"{machine.cpu}, {machine.threads} of {machine.cores} usable")
    if machine.board:
        _add(facts, "Board", machine.board)
    if machine.l4t:
        _add(facts, "Linux for Tegra", machine.l4t)
    _add(facts, "INT8 instructions", machine.int8_instructions)
    _add(facts, "Instruction sets", ", ".join(machine.isa) or cells.MISSING)
    _add(facts, "Memory", f"{machine.memory_bytes / 2**30:.1f} GiB")
    if found.temperatures_c:
        warm = [f"{zone} {celsius:.0f} °C" for zone, celsius in found.temperatures_c.items()]
        _add(facts, "Temperature", ", ".join(warm))
    _add(facts, "System", f"{machine.os}, Python {machine.python}")
    table = FoldingTable()
    table.add_column("Backend", no_wrap=True)
    table.add_column("State", overflow="fold")
    table.add_column("Devices", no_wrap=True)
    table.add_column("INT8 sums", overflow="fold")
    for backend in found.backends:
        problem = backend.trouble or backend.missing
        if not problem and backend.not_executable:
            problem = f"builds engines, cannot run them: {backend.not_executable}"
        sums = [
            f"{device}: {_sums(saturates, backend.wrong_lowest_weight.get(device, False))}"
            for device, saturates in backend.saturating.items()
        ]
        sums += [
            f"{device}: INT8 is not used for {', '.join(words)}"
            for device, words in backend.float_layers.items()
            if words
        ]
        sums += [f"{device}: no INT8: {reason}" for device, reason in backend.no_int8.items()]
        _add(
            table,
            backend.name,
            problem or "ready",
            ", ".join(backend.devices) or cells.MISSING,
            "; ".join(sums) or cells.MISSING,
        )
    return Group(facts, Text(), table)


def _sums(saturates: bool, wrong_lowest: bool) -> str:
    if saturates:
        return "saturate (weights are made safe)"
    if wrong_lowest:
        return "exact; wrong for weights of -128, which only files from elsewhere have"
    return "exact"


def _facts() -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    return table


def _add(table: Table, *texts: str) -> None:
    """Adds a row of plain texts: what stands in brackets is no markup."""
    table.add_row(*map(Text, texts))
