"""What is shown of an engine's accuracy: top-1 of a classifier, or the metrics of another task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from edgeres.evaluation.judge import MetricPart
from edgeres.report import cells
from edgeres.report.schema import Report, TargetPart


@dataclass(frozen=True)
class Row:
    """One figure of all targets.

    Attributes:
        heading: Of a column, two lines.
        label: Of a row, one line.
        cell: The figure of one target as text.
    """

    heading: str
    label: str
    cell: Callable[[TargetPart], str]


def accuracy_rows(report: Report, arrow: str, at_most: str, *, every: bool = False) -> list[Row]:
    """The figures of accuracy, in the order in which they are shown.

    Args:
        report: What the run found.
        arrow: Between FP32 and engine.
        at_most: In front of an upper bound.
        every: Whether metrics are shown, too, that no gate is on.
    """
    kind = cells.precision(report.targets.values())
    bound = f"{100 * report.confidence:g} %"
    metrics = _metrics(report)
    if not metrics:
        return [
            Row(
                f"Top-1 %\nFP32 {arrow} {kind}",
                f"Top-1 %, FP32 {arrow} {kind}",
                lambda t: cells.top1(report.baseline, t, arrow),
            ),
            Row(
                f"Drop pp\n({bound} bound)",
                f"Drop pp ({bound} bound)",
                lambda t: cells.drop(t, at_most),
            ),
            Row("Agree\n%", "Agreement %", lambda t: cells.percent(t.agreement)),
        ]
    rows: list[Row] = []
    for name, part in metrics.items():
        if every or part.verdict is not None:
            rows += _metric_rows(name, part, kind, bound, arrow, at_most)
    return rows


def headline(report: Report, *, data: bool = True) -> str:
    """What the float network reaches, as the end of a sentence, with the data where asked for."""
    baseline = report.baseline
    of = f" of {baseline.data}" if baseline.data else ""
    kind = "samples" if report.task.outputs else "images"
    where = f" on {baseline.samples:,} {kind}{of}" if data else ""
    if baseline.top1 is not None:
        return f"FP32 top-1 {cells.percent(baseline.top1)} %{where}"
    known = {n: part for n, part in _metrics(report).items() if n in baseline.metrics}
    if not known:
        return f"outputs held against those of FP32{where}"
    name, part = next(iter(known.items()))
    return f"FP32 {part.title} {_number(baseline.metrics[name], part.unit)}{where}"


def pruned_headline(report: Report) -> str:
    """What the pruned float network reaches."""
    pruning = report.pruning
    if pruning is None:
        return ""
    if pruning.top1 is not None:
        return f"FP32 top-1 {cells.percent(pruning.top1)} %"
    for part in pruning.metrics.values():
        return f"FP32 {part.title} {_number(part.engine, part.unit)}"
    return "not judged"


@dataclass(frozen=True)
class Plotted:
    """The first gated metric of one engine, for a chart.

    Attributes:
        fp32: Of the float network that the user brought.
        engine: Of the engine.
        drop: How much worse the engine is, with its bounds ``low`` and ``high``.
    """

    fp32: float
    engine: float
    drop: float
    low: float
    high: float


def plotted(report: Report) -> tuple[str, dict[str, Plotted]]:
    """Name and unit of what a chart shows of accuracy, and its figures by target."""
    baseline = report.baseline.top1
    if baseline is not None:
        return "top-1, %", {
            name: Plotted(
                100 * baseline,
                100 * part.top1,
                part.drop_pp,
                part.drop_pp if part.drop_lower_pp is None else part.drop_lower_pp,
                part.drop_upper_pp,
            )
            for name, part in report.targets.items()
            if part.top1 is not None and part.drop_pp is not None and part.drop_upper_pp is not None
        }
    for metric, kind in _metrics(report).items():
        if kind.fp32 is None:
            continue
        unit = f", {_shown(kind.unit)}" if kind.unit else ""
        return f"{kind.title}{unit}", {
            name: Plotted(own.fp32, own.engine, own.drop, own.drop_lower, own.drop_upper)
            for name, part in report.targets.items()
            if (own := part.metrics.get(metric)) is not None and own.fp32 is not None
        }
    return "", {}


@dataclass(frozen=True)
class Loss:
    """What one engine loses of the first gated figure, less being better.

    Attributes:
        metric: What people call the figure.
        unit: Of all figures here.
        value: The figure of the engine.
        drop: How much worse it is than the float network's; of a figure that says how near the two
            are, minus the figure.
        upper: One-sided upper confidence bound of ``drop``.
        allowed: Largest ``drop`` that the gate allows; ``None`` without one.
        closeness: Whether the figure says how near the two are.
    """

    metric: str
    unit: str
    value: float
    drop: float
    upper: float
    allowed: float | None
    closeness: bool = False


def loss_of(target: TargetPart) -> Loss | None:
    """What an engine loses; ``None`` where it did not run here."""
    if target.top1 is not None and target.drop_pp is not None and target.drop_upper_pp is not None:
        return Loss(
            "top-1", "pp", 100 * target.top1, target.drop_pp, target.drop_upper_pp,
            allowed_drop(target),
        )  # fmt: skip
    for part in target.metrics.values():
        closeness = part.fp32 is None
        allowed = -part.limit if closeness and part.limit is not None else part.limit
        return Loss(
            part.title, part.unit, part.engine, part.drop, part.drop_upper, allowed, closeness
        )
    return None


def allowed_drop(target: TargetPart) -> float | None:
    """The loss of the plotted metric that is allowed; ``None`` where no gate is on it."""
    for part in target.metrics.values():
        if part.fp32 is not None:
            return part.limit
    return next((check.limit for check in target.checks if check.name == "accuracy"), None)


def _metrics(report: Report) -> Mapping[str, MetricPart]:
    return next((part.metrics for part in report.targets.values() if part.metrics), {})


def _metric_rows(
    name: str, part: MetricPart, kind: str, bound: str, arrow: str, at_most: str
) -> list[Row]:
    unit = f" {_shown(part.unit)}" if part.unit else ""
    lost = f" {part.unit}" if part.unit else ""

    def found(target: TargetPart) -> MetricPart | None:
        return target.metrics.get(name)

    if part.fp32 is None:

        def near(target: TargetPart) -> str:
            own = found(target)
            return cells.MISSING if own is None else f"{own.engine:.4g} (>= {-own.drop_upper:.4g})"

        return [Row(f"{name}{unit}\n({bound} bound)", f"{name}{unit} ({bound} bound)", near)]

    def value(target: TargetPart) -> str:
        own = found(target)
        if own is None or own.fp32 is None:
            return cells.MISSING
        return f"{own.fp32:.4g} {arrow} {own.engine:.4g}"

    def loss(target: TargetPart) -> str:
        own = found(target)
        return cells.MISSING if own is None else f"{own.drop:+.3g} ({at_most}{own.drop_upper:.3g})"

    return [
        Row(f"{name}{unit}\nFP32 {arrow} {kind}", f"{name}{unit}, FP32 {arrow} {kind}", value),
        Row(f"Drop{lost}\n({bound} bound)", f"{name}: drop{lost} ({bound} bound)", loss),
    ]


def _shown(unit: str) -> str:
    return "%" if unit == "pp" else unit


def _number(value: float, unit: str) -> str:
    return f"{value:.4g} {_shown(unit)}".rstrip()
