"""The page's charts: Vega-Lite drawn once into SVG, so that the page needs no script to show them.

Colours are CSS variables of the page, which is how one drawing serves light and dark. Every chart
has a table beside it that says the same; the marks carry their values as tooltips.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from edgeres.report.cells import engine_kind
from edgeres.report.evidence import Answers, TargetTimes
from edgeres.report.figures import allowed_drop, plotted
from edgeres.report.history import Row
from edgeres.report.page_layers import LayerRow
from edgeres.report.samples import Spread
from edgeres.report.schema import Report
from edgeres.system.extras import import_extra

WIDTH = 400
_MOST_CLASSES = 20  # in a confusion matrix that a person can read
_MOST_LAYERS = 15
_NAME = 34  # characters of a layer's name that fit
_ATTRIBUTES = re.compile(r' (?:role|aria-[a-z]+)="[^"]*"')
_MARK = re.compile(r'<(path|rect|line|text)( [^>]*?)?aria-label="([^"]*)"([^>]*?)(/>|>)')


def drops(report: Report) -> str | None:
    """What each engine loses of accuracy with its bounds, beside what is allowed; SVG."""
    alt = _altair()
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
    base = alt.Chart(_data(rows))
    layers = [
        base.mark_rule(strokeWidth=3, color="var(--c0)").encode(axis, alt.X2("high:Q"), names),
        base.mark_point(filled=True, size=90, opacity=1, color="var(--c0)").encode(
            alt.X("drop:Q"), names
        ),
    ]
    for limit in limits - {None}:
        edge = alt.Chart(_data([{"limit": limit, "text": f"allowed {limit:g}"}]))
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
    return _svg(alt.layer(*layers).properties(width=WIDTH - 90, height=46 * len(rows) + 20))


def _good(report: Report) -> str:
    part = next((p for t in report.targets.values() for p in t.metrics.values()), None)
    return "up" if part is None or part.higher_is_better else "down"


def latency(times: TargetTimes, engine: str = "INT8") -> str | None:
    """Share of the runs that took at most so long, FP32 beside the engine, for one target; SVG.

    Args:
        times: Of the target.
        engine: What the engine is called.
    """
    alt = _altair()
    rows = [
        {"precision": name, "ms": value, "share": percent}
        for record, name in ((times.fp32, "FP32"), (times.int8, engine))
        for percent, value in enumerate(record.quantiles_ms)
        if percent < 100  # the slowest run of all would flatten the picture
    ]
    if not rows:
        return None
    chart = (
        alt.Chart(_data(rows))
        .mark_line(strokeWidth=2.5, interpolate="step-after")
        .encode(
            alt.X("ms:Q", title="milliseconds").scale(zero=False),
            alt.Y("share:Q", title="% of runs at most").scale(domain=[0, 100]),
            _two("precision", ("FP32", engine), alt),
        )
    )
    return _svg(chart.properties(width=WIDTH - 70, height=150))


def spread(found: Spread, engine: str = "INT8") -> str:
    """How some numbers are spread over the samples, FP32 beside the engine; SVG.

    Args:
        found: Shares in bins.
        engine: What the engine is called.
    """
    alt = _altair()
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
        alt.Chart(_data(rows))
        .mark_line(strokeWidth=2.5, interpolate="step", opacity=0.75)
        .encode(
            alt.X("x:Q", title=found.title).scale(domain=[found.low, found.high], nice=False),
            alt.Y("y:Q", title="% of the numbers").scale(domainMin=0),
            _two("model", [names[model] for model in found.shares], alt),
            dash.legend(told),
        )
    )
    return _svg(chart.properties(width=WIDTH - 70, height=150))


def pareto(report: Report) -> str | None:
    """Accuracy over latency of every engine and of the FP32 model on its backend; SVG."""
    alt = _altair()
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
    base = alt.Chart(_data(rows)).encode(
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
        shape=alt.Shape("precision:N", title=None, legend=alt.Legend(orient="top")).scale(
            domain=kinds, range=["circle", "square", "diamond"][: len(kinds)]
        )
    )
    colour = alt.Color("engine:N", title=None, legend=alt.Legend(orient="top"))
    chart = (lines + points).encode(colour.scale(domain=engines, range=colours))
    return _svg(chart.properties(width=WIDTH - 70, height=200))


def weight_noise(layers: Sequence[LayerRow]) -> str | None:
    """SQNR of each layer's weights, worst first; SVG."""
    alt = _altair()
    rows = [
        {"layer": layer.node[-_NAME:], "weight_sqnr_db": layer.weight_sqnr_db}
        for layer in sorted(layers, key=lambda layer: layer.weight_sqnr_db or 0.0)
        if layer.weight_sqnr_db is not None
    ]
    if not rows:
        return None
    chart = alt.Chart(_data(rows[:_MOST_LAYERS]))
    return _svg(
        chart.mark_bar(height=9, color="var(--c1)")
        .encode(
            alt.X("weight_sqnr_db:Q", title="SQNR of the weights, dB (right is better)"),
            alt.Y("layer:N", sort=None, title=None).axis(labelLimit=200, labelFontSize=10),
        )
        .properties(width=WIDTH - 190, height=alt.Step(14))
    )


def layer_sensitivity(layers: Sequence[LayerRow]) -> str | None:
    """Share of the logits' noise that each layer brings by itself, most sensitive first; SVG."""
    alt = _altair()
    rows = [
        {"layer": layer.node[-_NAME:], "noise": 100 * layer.noise_share}
        for layer in sorted(layers, key=lambda layer: -(layer.noise_share or 0.0))
        if layer.noise_share is not None
    ]
    if not rows:
        return None
    return _svg(
        alt.Chart(_data(rows[:_MOST_LAYERS]))
        .mark_bar(height=9, color="var(--c2)")
        .encode(
            alt.X("noise:Q", title="% of the noise (left is better)"),
            alt.Y("layer:N", sort=None, title=None).axis(labelLimit=200, labelFontSize=10),
        )
        .properties(width=WIDTH - 190, height=alt.Step(14))
    )


def layer_noise(layers: Sequence[LayerRow]) -> str | None:
    """SQNR of each layer's output in the engine, in the order of the network; SVG."""
    alt = _altair()
    measured = [layer for layer in layers if layer.sqnr_db is not None]
    kinds = ("all layers up to here", "this layer alone")
    rows = [
        {"place": place, "layer": layer.node, "kind": kind, "db": sqnr_db}
        for number, kind in enumerate(kinds)
        for place, layer in enumerate(measured, start=1)
        if (sqnr_db := (layer.sqnr_db, layer.own_sqnr_db)[number]) is not None
    ]
    if not rows:
        return None
    chart = alt.Chart(_data(rows)).mark_line(strokeWidth=2, point={"filled": True, "size": 45})
    return _svg(
        chart.encode(
            alt.X("place:Q", title="layer, from the image to the logits").axis(tickMinStep=1),
            alt.Y("db:Q", title="SQNR, dB (up is better)").scale(zero=False),
            alt.Color("kind:N", title=None)
            .scale(domain=list(kinds), range=["var(--c0)", "var(--c1)"])
            .legend(orient="top", labelLimit=300),
            detail="kind:N",
            tooltip=[alt.Tooltip("layer:N"), alt.Tooltip("db:Q", format=".1f")],
        ).properties(width=WIDTH - 70, height=170)
    )


def confusion(answers: Answers) -> str | None:
    """Images that each cell of the confusion matrix gains or loses by INT8; SVG.

    ``None`` where there are too many classes to read, or nothing changed.
    """
    alt = _altair()
    names = answers.class_names
    if len(names) > _MOST_CLASSES:
        return None
    rows = [
        {"label": names[label], "answer": names[answer], "change": count, "size": abs(count)}
        | {"sign": f"{'more' if count > 0 else 'fewer'} images", "text": f"{count:+d}"}
        for (label, answer), count in confusion_changes(answers).items()
    ]
    if not rows:
        return None
    across = alt.X("answer:N", sort=list(names), title="answer").scale(domain=list(names))
    down = alt.Y("label:N", sort=list(names), title="true class").scale(domain=list(names))
    base = alt.Chart(_data(rows)).encode(across.axis(labelAngle=-60), down)
    cells = base.mark_rect().encode(
        alt.Color("sign:N", title=None)
        .scale(domain=["more images", "fewer images"], range=["var(--c1)", "var(--c0)"])
        .legend(orient="top"),
        alt.Opacity("size:Q", legend=None).scale(range=[0.18, 0.55]),
    )
    texts = base.mark_text(color="var(--ink)", fontSize=11).encode(text="text:N")
    return _svg((cells + texts).properties(width=alt.Step(26), height=alt.Step(22)))


def confusion_changes(answers: Answers) -> dict[tuple[int, int], int]:
    """(True class, answer) to the images that the cell gains by INT8, cells of no change left out.

    Answers that are no number belong to no cell.
    """
    changes: dict[tuple[int, int], int] = {}
    flips = answers.dense != answers.engine
    for label, before, after in zip(
        answers.labels[flips].tolist(),
        answers.dense[flips].tolist(),
        answers.engine[flips].tolist(),
        strict=True,
    ):
        for answer, step in ((before, -1), (after, 1)):
            if answer >= 0:
                changes[label, answer] = changes.get((label, answer), 0) + step
    return {cell: count for cell, count in sorted(changes.items()) if count}


def drift(rows: Sequence[Row], field: str, title: str) -> str | None:
    """One figure over the runs of a history, a line for each engine; SVG.

    Args:
        rows: Of the history.
        field: Name of the figure.
        title: What it is, with its unit.
    """
    alt = _altair()
    points = [
        {"run": row.run, "engine": row.engine, field: value}
        for row in rows
        if (value := getattr(row, field)) is not None
    ]
    if not points:
        return None
    engines = sorted({row.engine for row in rows if getattr(row, field) is not None})
    colours = [f"var(--c{number % 4})" for number in range(len(engines))]
    chart = alt.Chart(_data(points)).mark_line(point={"filled": True, "size": 60}, strokeWidth=2)
    return _svg(
        chart.encode(
            alt.X("run:O", title="run"),
            alt.Y(f"{field}:Q", title=title).scale(zero=False),
            alt.Color("engine:N", title=None)
            .scale(domain=engines, range=colours)
            .legend(orient="top"),
        ).properties(width=WIDTH - 70, height=150)
    )


def _altair() -> Any:
    return import_extra("altair", extra="report", user="a chart")


def _two(field: str, kinds: Sequence[str], alt: Any) -> Any:
    """FP32 and the engine in the same colours everywhere."""
    colours = ["var(--c0)" if kind == "FP32" else "var(--c1)" for kind in kinds]
    scale = alt.Scale(domain=list(kinds), range=colours)
    return alt.Color(f"{field}:N", title=None, scale=scale, legend=alt.Legend(orient="top"))


def _data(rows: Sequence[Mapping[str, object]]) -> Any:
    return _altair().Data(values=list(rows))


def _svg(chart: Any) -> str:
    """Draws a chart in the page's colours."""
    styled = (
        chart.configure(background="transparent", font="sans-serif", padding=10)
        .configure_view(stroke="var(--line)")
        .configure_title(color="var(--ink)", anchor="start", fontSize=13)
        .configure_axis(
            labelColor="var(--ink)",
            titleColor="var(--ink)",
            titleFontWeight="normal",
            gridColor="var(--line)",
            domainColor="var(--line)",
            tickColor="var(--line)",
            labelFontSize=11,
            titleFontSize=12,
        )
        .configure_legend(
            labelColor="var(--ink)",
            titleColor="var(--ink)",
            labelFontSize=12,
            symbolFillColor="var(--ink)",
            columnPadding=26,
        )
    )
    return draw(styled)


def draw(chart: Any) -> str:
    """A chart as SVG: for a screen reader one picture, with the marks' descriptions as tooltips.

    Raises:
        BackendMissingError: The package that draws is not installed.
    """
    vl_convert: Any = import_extra("vl_convert", extra="report", user="a chart")
    svg = str(vl_convert.vegalite_to_svg(chart.to_json()))
    svg = _MARK.sub(_with_tooltip, svg)
    svg = _ATTRIBUTES.sub("", svg)
    return svg.replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1)


def _with_tooltip(mark: re.Match[str]) -> str:
    kind, before, label, after, end = mark.groups()
    if kind == "text":
        return f"<{kind}{before or ''}{after}{end}"
    tooltip = f"<title>{label}</title>"
    closing = f"</{kind}>" if end == "/>" else ""
    return f"<{kind}{before or ''}{after.rstrip('/')}>{tooltip}{closing}"
