"""Residual blocks as pictures: the first one drawn here, all of them as data for the page's script.

A network of 50 blocks drawn 50 times would be most of the page. So the page has one picture, which
needs no script, and the boxes of all blocks, from which ``page_graph.js`` draws the same SVG.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from edgeres.report.block_graph import Block, Box

_WIDTH, _HEIGHT, _GAP = 150, 30, 20
_COLUMN = 105


def block_svg(block: Block) -> str:
    """One block as SVG."""
    places = [_place(box) for box in block.boxes]
    lines = "".join(_line(places[start], places[end]) for start, end in block.lines)
    boxes = "".join(_box(place, box) for place, box in zip(places, block.boxes, strict=True))
    width = 2 * _COLUMN + _WIDTH + 10
    height = max(y for _, y in places) + _HEIGHT + 5
    return (
        f'<svg class="graph" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="{escape(block.words)}">{lines}{boxes}</svg>'
    )


def block_data(blocks: Sequence[Block]) -> list[list[object]]:
    """What the script draws from: of each block its name, its words, its boxes and its lines.

    A box is ``[label, title, kind, column, row]``, a line ``[from, to]``.
    """
    return [
        [
            block.name,
            block.words,
            [[box.label, box.title, box.kind, box.column, box.row] for box in block.boxes],
            [list(line) for line in block.lines],
        ]
        for block in blocks
    ]


def _place(box: Box) -> tuple[int, int]:
    return box.column * _COLUMN + 5, box.row * (_HEIGHT + _GAP) + 5


def _line(start: tuple[int, int], end: tuple[int, int]) -> str:
    x1, y1 = start[0] + _WIDTH // 2, start[1] + _HEIGHT
    x2, y2 = end[0] + _WIDTH // 2, end[1]
    bend = (y1 + y2) / 2
    return f'<path class="edge" d="M{x1},{y1}C{x1},{bend:g} {x2},{bend:g} {x2},{y2}"></path>'


def _box(place: tuple[int, int], box: Box) -> str:
    x, y = place
    return (
        f'<g class="{box.kind}"><title>{escape(box.title, quote=False)}</title>'
        f'<rect x="{x}" y="{y}" width="{_WIDTH}" height="{_HEIGHT}" rx="5"></rect>'
        f'<text x="{x + _WIDTH // 2}" y="{y + 20}">{escape(box.label, quote=False)}</text></g>'
    )
