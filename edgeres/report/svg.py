"""A Vega-Lite chart as SVG in the page's colours: drawn once, so that the page needs no script.

Colours are CSS variables of the page, which is how one drawing serves light and dark. The marks
carry their values as tooltips. A chart is drawn for a card and for a phone, and the page shows the
one that fits: one drawing for both would have letters that are too small or too large.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from edgeres.system.extras import import_extra

WIDE, NARROW = 520, 330  # pixels
_ATTRIBUTES = re.compile(r' (?:role|aria-[a-z]+)="[^"]*"')
_MARK = re.compile(r'<(path|rect|line|text)( [^>]*?)?aria-label="([^"]*)"([^>]*?)(/>|>)')


def altair() -> Any:
    """The package that describes charts.

    Raises:
        BackendMissingError: It is not installed.
    """
    return import_extra("altair", extra="report", user="a chart")


def data(rows: Sequence[Mapping[str, object]]) -> Any:
    """Rows as the data of a chart."""
    return altair().Data(values=list(rows))


def two_widths(chart: Any) -> str:
    """Draws a chart for a card and for a phone: two SVG, of the classes ``wide`` and ``narrow``.

    Args:
        chart: With a height and no width.
    """
    alt = altair()
    fit = alt.AutoSizeParams(type="fit-x", contains="padding")
    drawn = []
    for name, width in (("wide", WIDE), ("narrow", NARROW)):
        sized = _styled(chart.properties(width=width, autosize=fit), labels=width // 3)
        drawn.append(draw(sized).replace("<svg ", f'<svg class="{name}" ', 1))
    return "".join(drawn)


def one_width(chart: Any) -> str:
    """Draws a chart whose width follows from what is in it."""
    return draw(_styled(chart, labels=WIDE // 3))


def _styled(chart: Any, labels: int) -> Any:
    return (
        chart.configure(background="transparent", font="sans-serif", padding=6)
        .configure_view(stroke="var(--line)")
        .configure_title(color="var(--ink)", anchor="start", fontSize=13)
        .configure_axis(
            labelColor="var(--ink)",
            titleColor="var(--ink)",
            titleFontWeight="normal",
            gridColor="var(--line)",
            domainColor="var(--line)",
            tickColor="var(--line)",
            labelFontSize=12,
            titleFontSize=12,
            labelLimit=labels,
            labelOverlap="greedy",
            labelSeparation=8,
        )
        # Flushed labels move the first and the last one inward, onto their neighbours.
        .configure_axisX(labelFlush=False, tickCount=6)
        .configure_axisY(tickCount=6)
        .configure_legend(
            labelColor="var(--ink)",
            titleColor="var(--ink)",
            labelFontSize=12,
            symbolFillColor="var(--ink)",
            columnPadding=18,
        )
    )


def draw(chart: Any) -> str:
    """A chart as SVG: for a screen reader one picture, with the marks' descriptions as tooltips.

    Raises:
        BackendMissingError: The package that draws is not installed.
    """
    vl_convert: Any = import_extra("vl_convert", extra="report", user="a chart")
    svg = str(vl_convert.vegalite_to_svg(chart.to_json()))
    svg = _MARK.sub(_with_tooltip, svg)
    svg = _ATTRIBUTES.sub("", svg)
    # Several charts stand in one page: what one refers to inside of itself has a name of its own.
    own = hashlib.sha256(svg.encode()).hexdigest()[:8]
    svg = re.sub(r'(id="|url\(#)(clip|gradient)', rf"\g<1>{own}-\2", svg)
    return svg.replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1)


def _with_tooltip(mark: re.Match[str]) -> str:
    kind, before, label, after, end = mark.groups()
    if kind == "text":
        return f"<{kind}{before or ''}{after}{end}"
    tooltip = f"<title>{label}</title>"
    closing = f"</{kind}>" if end == "/>" else ""
    return f"<{kind}{before or ''}{after.rstrip('/')}>{tooltip}{closing}"
