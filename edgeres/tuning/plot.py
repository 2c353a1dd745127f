"""The Pareto set as a picture: latency across, loss up, in one SVG without scripts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgeres.report.svg import draw
from edgeres.system.extras import import_extra
from edgeres.tuning.record import Measured, Try, pareto_front

_GREY, _BLUE, _RED = "#999999", "#1f5fa8", "#b03030"


def pareto_svg(tries: Sequence[Try]) -> str:
    """All measured tries as points, the Pareto set joined, the accuracy budget as a line.

    Args:
        tries: Of a search.

    Raises:
        BackendMissingError: The packages that draw charts are not installed.
    """
    alt: Any = import_extra("altair", extra="tune", user="the picture of a search")
    front = {attempt.number for attempt in pareto_front(tries)}
    ran = [t.measured for t in tries if t.measured is not None]
    rows = [_row(t, t.measured, t.number in front) for t in tries if t.measured is not None]
    x = alt.X("ms:Q", title="latency, p50 in ms").scale(zero=True)
    y = alt.Y("drop:Q", title=_lost(ran)).scale(padding=20)
    joined = alt.Chart(alt.Data(values=[row for row in rows if row["colour"] == _BLUE]))
    points = alt.Chart(alt.Data(values=rows))
    budgets = sorted({one.max_drop for one in ran if one.max_drop is not None})
    lines = [{"drop": drop, "text": f"budget {drop:g}"} for drop in budgets]
    budget = alt.Chart(alt.Data(values=lines))
    whole = alt.layer(
        budget.mark_rule(color=_RED).encode(y),
        budget.mark_text(color=_RED, align="right", dy=-7).encode(
            y, x=alt.value("width"), text="text:N"
        ),
        joined.mark_line(color=_BLUE).encode(x, y, order="ms:Q"),
        points.mark_point(size=60, opacity=1).encode(
            x,
            y,
            stroke=alt.Stroke("colour:N", scale=None),
            fill=alt.Fill("fill:N", scale=None),
            description="told:N",
        ),
    )
    return draw(whole.properties(width=550, height=320, background="white"))


def _lost(ran: Sequence[Measured]) -> str:
    """What the axis of the loss is called."""
    if not ran:
        return "drop"
    first = ran[0]
    unit = f", {first.unit}" if first.unit else ""
    return f"{'minus' if first.closeness else 'drop of'} {first.metric}{unit}"


def _row(attempt: Try, measured: Measured, on_front: bool) -> dict[str, Any]:
    colour = _BLUE if on_front else _GREY
    return {
        "ms": measured.latency_ms,
        "drop": measured.drop,
        "colour": colour,
        "fill": colour if measured.within_budget else "white",
        "told": f"{attempt.number}: {attempt.candidate.label}; {measured.latency_ms:.3g} ms, "
        f"{measured.told}, {measured.verdict}",
    }
