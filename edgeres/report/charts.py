"""The page's charts of accuracy and latency, of one run and over several.

Every chart has a table beside it that says the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgeres.report.cells import engine_kind
from edgeres.report.evidence import TargetTimes
from edgeres.report.figures import allowed_drop, plotted
from edgeres.report.history import Row
from edgeres.report.samples import Spread
from edgeres.report.schema import Report
from edgeres.report.svg import altair, data, two_widths


def drops(report: Report) -> str | None:
    """What each engine loses of accuracy with its bounds, beside what is allowed; SVG."""
    alt = altair()
    title, found = plotted(report)
    rows = [
        {"engine": name, "drop": own.drop, "low": own.low, "high": own.high}
        for name, own in found.items()
    ]
    if not rows:
        return None
    limits = {allowed_drop(part) for part in report.targets.values()}
    lost = "points of top-1 lost" if report.baseline.top1 is not None else f"lost: {title}"
    axis = alt.X("low:Q", title=f"{lost} (right is worse)").scale(zero=True)
    names = alt.Y("engine:N", title=None)
    base = alt.Chart(data(rows))
    layers = [
        base.mark_rule(strokeWidth=3, color="var(--c0)").encode(axis, alt.X2("high:Q"), names),
        base.mark_point(filled=True, size=90, opacity=1, color="var(--c0)").encode(
            alt.X("drop:Q"), names
        ),
    ]
    for limit in limits - {None}:
        edge = alt.Chart(data([{"limit": limit, "text": f"allowed {limit:g}"}]))
        layers.append(
            edge.mark_rule(strokeDash=[5, 4], strokeWidth=2, color="var(--bad)").encode(
                alt.X("limit:Q")
            )
        )
        layers.append(
            edge.mark_text(dy=-8, align="right", dx=-5, color="var(--bad)", baseline="top").encode(
                alt.X("limit:Q"), y=alt.value(8), text="text:N"
            )
        )
    return two_widths(alt.layer(*layers).properties(height=46 * len(rows) + 20))


def _good(report: Report) -> str:
    part = next((p for t in report.targets.values() for p in t.metrics.values()), None)
    return "up" if part is None or part.higher_is_better else "down"


def latency(times: TargetTimes, engine: str = "INT8") -> str | None:
    """Share of the runs that took at most so long, FP32 beside the engine, for one target; SVG.

    Args:
        times: Of the target.
        engine: What the engine is called.
    """
    alt = altair()
    rows = [
        {"precision": name, "ms": value, "share": percent}
        for record, name in ((times.fp32, "FP32"), (times.int8, engine))
        for percent, value in enumerate(record.quantiles_ms)
        if percent < 100  # the slowest run of all would flatten the picture
    ]
    if not rows:
        return None
    chart = (
        alt.Chart(data(rows))
        .mark_line(strokeWidth=2.5, interpolate="step-after")
        .encode(
            alt.X("ms:Q", title="milliseconds").scale(zero=False),
            alt.Y("share:Q", title="% of runs at most").scale(domain=[0, 100]),
            _two("precision", ("FP32", engine), alt),
        )
    )
    return two_widths(chart.properties(height=150))


def spread(found: Spread, engine: str = "INT8") -> str:
    """How some numbers are spread over the samples, FP32 beside the engine; SVG.

    Args:
        found: Shares in bins.
        engine: What the engine is called.
    """
    alt = altair()
    names = {"FP32": "FP32", "engine": engine}
    rows = []
    for model, kinds in found.shares.items():
        for kind, shares in kinds.items():
            width = (found.high - found.low) / len(shares)
            for place, share in enumerate(shares):
                middle = found.low + (place + 0.5) * width
                rows.append({"model": names[model], "kind": kind, "x": middle, "y": share})
    named = list(dict.fromkeys(str(row["kind"]) for row in rows))
    dash = alt.StrokeDash("kind:N", title=None).scale(
        domain=named, range=[[1, 0], [6, 3], [2, 2]][: len(named)]
    )
    told = alt.Legend(orient="top") if len(named) > 1 else None
    chart = (
        alt.Chart(data(rows))
        .mark_line(strokeWidth=2.5, interpolate="step", opacity=0.75)
        .encode(
            alt.X("x:Q", title=found.title).scale(domain=[found.low, found.high], nice=False),
            alt.Y("y:Q", title="% of the numbers").scale(domainMin=0),
            _two("model", [names[model] for model in found.shares], alt),
            dash.legend(told),
        )
    )
    return two_widths(chart.properties(height=150))


def pareto(report: Report) -> str | None:
    """Accuracy over latency of every engine and of the FP32 model on its backend; SVG."""
    alt = altair()
    rows = []
    title, found = plotted(report)
    for name, target in report.targets.items():
        baseline = report.baseline.latency_ms.get(name) or target.fp32_latency_ms
        own = found.get(name)
        if own is None:
            continue
        if baseline is not None:
            row = {"engine": name, "precision": "FP32", "ms": baseline.p50}
            rows.append({**row, "accuracy": own.fp32})
        if target.latency_ms is not None:
            row = {"engine": name, "precision": engine_kind(target), "ms": target.latency_ms.p50}
            rows.append({**row, "accuracy": own.engine})
    if not rows:
        return None
    base = alt.Chart(data(rows)).encode(
        alt.X("ms:Q", title="latency p50, ms (left is better)").scale(zero=True, nice=True),
        alt.Y("accuracy:Q", title=f"{title} ({_good(report)} is better)").scale(
            zero=False, padding=18
        ),
    )
    engines = list(dict.fromkeys(row["engine"] for row in rows))
    colours = [f"var(--c{number % 3 + 1})" for number in range(len(engines))]
    kinds = ["FP32", *dict.fromkeys(map(engine_kind, report.targets.values()))]
    lines = base.mark_line(strokeDash=[2, 3]).encode(detail="engine:N")
    points = base.mark_point(filled=True, size=130, opacity=1).encode(
        shape=alt.Shape("precision:N", title=None, legend=alt.Legend(orient="bottom")).scale(
            domain=kinds, range=["circle", "square", "diamond"][: len(kinds)]
        )
    )
    colour = alt.Color("engine:N", title=None, legend=alt.Legend(orient="top"))
    chart = (lines + points).encode(colour.scale(domain=engines, range=colours))
    return two_widths(chart.properties(height=200))


def drift(rows: Sequence[Row], field: str, title: str, *, least: float) -> str | None:
    """One figure over the runs of a history, a line for each engine; SVG.

    Args:
        rows: Of the history.
        field: Name of the figure.
        title: What it is, with its unit.
        least: The smallest step between two labels. The axis spans ten of them at least, so that
            runs which hardly differ look alike.
    """
    alt = altair()
    points = [
        {"run": row.run, "engine": row.engine, field: value}
        for row in rows
        if (value := getattr(row, field)) is not None
    ]
    if not points:
        return None
    engines = sorted({row.engine for row in rows if getattr(row, field) is not None})
    colours = [f"var(--c{number % 4})" for number in range(len(engines))]
    chart = alt.Chart(data(points)).mark_line(point={"filled": True, "size": 60}, strokeWidth=2)
    return two_widths(
        chart.encode(
            alt.X("run:O", title="run").axis(labelAngle=0),
            alt.Y(f"{field}:Q", title=title)
            .scale(zero=False, domain=_room([point[field] for point in points], 10 * least))
            .axis(tickMinStep=least),
            alt.Color("engine:N", title=None)
            .scale(domain=engines, range=colours)
            .legend(orient="top"),
        ).properties(height=150)
    )


def _room(values: Sequence[float], least: float) -> list[float]:
    """The range of an axis: of the values, but not shorter than ``least``."""
    low, high = min(values), max(values)
    more = max(0.05 * (high - low), (least - (high - low)) / 2)
    return [low - more, high + more]


def _two(field: str, kinds: Sequence[str], alt: Any) -> Any:
    """FP32 and the engine in the same colours everywhere."""
    colours = ["var(--c0)" if kind == "FP32" else "var(--c1)" for kind in kinds]
    scale = alt.Scale(domain=list(kinds), range=colours)
    return alt.Color(f"{field}:N", title=None, scale=scale, legend=alt.Legend(orient="top"))
