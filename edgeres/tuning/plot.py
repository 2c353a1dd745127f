"""The Pareto set as a picture: latency across, drop of top-1 up, in one SVG without scripts."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from edgeres.tuning.record import Measured, Try, pareto_front

_WIDTH, _HEIGHT = 640, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 20, 30, 50
_MARKS = 5
_GREY, _BLUE, _RED = "#999999", "#1f5fa8", "#b03030"


def pareto_svg(tries: Sequence[Try], *, max_drop_pp: float) -> str:
    """All measured tries as points, the Pareto set joined, the accuracy budget as a line.

    Args:
        tries: Of a search.
        max_drop_pp: Accuracy budget in percentage points.
    """
    done = [(t, t.measured) for t in tries if t.measured is not None]
    drops = [m.drop_pp for _, m in done]
    low, high = min([0.0, *drops]), max([max_drop_pp, *drops])
    margin = 0.08 * (high - low) or 1.0
    low, high = low - margin, high + margin
    slowest = 1.08 * max((m.latency_ms for _, m in done), default=1.0)

    def x(latency_ms: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * latency_ms / slowest

    def y(drop_pp: float) -> float:
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * (drop_pp - low) / (high - low)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        _text(_WIDTH / 2, _HEIGHT - 12, "latency, p50 in ms", "middle"),
        _text(10, 18, "drop of top-1 in percentage points", "start"),
    ]
    for step in range(_MARKS + 1):
        at, drop = slowest * step / _MARKS, low + (high - low) * step / _MARKS
        parts.append(_line(_LEFT, y(drop), _WIDTH - _RIGHT, y(drop), "#e5e5e5"))
        parts.append(_text(_LEFT - 8, y(drop) + 4, f"{drop:.2f}", "end"))
        parts.append(_text(x(at), _HEIGHT - _BOTTOM + 18, f"{at:.3g}", "middle"))
    budget = y(max_drop_pp)
    parts.append(_line(_LEFT, budget, _WIDTH - _RIGHT, budget, _RED))
    parts.append(_text(_WIDTH - _RIGHT, budget - 5, f"budget {max_drop_pp:g} pp", "end", _RED))
    front = pareto_front(tries)
    corners = " ".join(
        f"{x(t.measured.latency_ms):.1f},{y(t.measured.drop_pp):.1f}" for t in front if t.measured
    )
    parts.append(f'<polyline points="{corners}" fill="none" stroke="{_BLUE}"/>')
    chosen = {t.number for t in front}
    parts += [
        _point(x(m.latency_ms), y(m.drop_pp), t, m, _BLUE if t.number in chosen else _GREY)
        for t, m in done
    ]
    return "\n".join([*parts, "</svg>", ""])


def _point(x: float, y: float, found: Try, measured: Measured, colour: str) -> str:
    told = (
        f"{found.number}: {found.candidate.label}; {measured.latency_ms:.3g} ms, "
        f"{measured.drop_pp:+.2f} pp, {measured.verdict}"
    )
    fill = colour if measured.within_budget else "white"
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{fill}" stroke="{colour}">'
        f"<title>{escape(told)}</title></circle>"
    )


def _line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'


def _text(x: float, y: float, text: str, anchor: str, colour: str = "#333333") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">'
        f"{escape(text)}</text>"
    )
