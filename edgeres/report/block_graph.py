"""Residual blocks of a quantized network as pictures: which nodes there are, what runs in INT8.

A block is a residual Add with the two ways that lead to it from where they part. Constants and the
DequantizeLinear of weights are left out; what is drawn is what data flows through.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeres.graph.summary import read_proto

if TYPE_CHECKING:
    import onnx

_WIDTH, _HEIGHT, _GAP = 150, 30, 20
_COLUMN = 210
_MOST = 24  # blocks that are drawn
_LIMIT = 400  # nodes of a way; more is no residual block


@dataclass(frozen=True)
class Block:
    """A residual Add by its ONNX name, what the picture shows in words, and the picture."""

    name: str
    words: str
    svg: str


def residual_blocks(path: Path, precisions: Mapping[str, str]) -> list[Block]:
    """Draws the residual blocks of a Q/DQ model, in the order of the network.

    Args:
        path: The Q/DQ ONNX file.
        precisions: ONNX node name to the precision in which the engine runs it.

    Raises:
        ModelError: The file is no ONNX model.
    """
    graph = read_proto(path).graph
    makers = {name: node for node in graph.node for name in node.output}
    constant = {w.name for w in graph.initializer}
    for node in graph.node:  # folded weights come through a DequantizeLinear or a Constant
        if all(not name or name in constant for name in node.input):
            constant.update(node.output)
    blocks = []
    for node in graph.node:
        ways = [name for name in node.input if name not in constant]
        if node.op_type == "Add" and len(ways) == 2:
            blocks.append(_draw(node, ways, makers, constant, precisions))
    return blocks[:_MOST]


def _draw(
    add: onnx.NodeProto,
    ways: list[str],
    makers: Mapping[str, onnx.NodeProto],
    constant: set[str],
    precisions: Mapping[str, str],
) -> Block:
    first, second = (_behind(way, makers, constant) for way in ways)
    left = {key: node for key, node in first.items() if key not in second}
    right = {key: node for key, node in second.items() if key not in first}
    if len(right) > len(left):
        left, right = right, left
    # The two ways part at the outputs that both can reach and that feed what only one has.
    forks = {
        name: makers[name]
        for node in (*left.values(), *right.values(), add)
        for name in node.input
        if name in makers and name not in constant and name in first and name in second
    }
    nodes = {**forks, **left, **right, add.output[0]: add}
    parents = {
        key: [name for name in node.input if name in nodes] if key not in forks else []
        for key, node in nodes.items()
    }
    depth = {key: _depth(key, parents) for key in nodes}
    column = {key: 0 if key in left else 2 if key in right else 1 for key in nodes}
    if len(forks) == 2:  # side by side, not on top of each other
        column |= dict(zip(forks, (0, 2), strict=True))
    rows = sorted(set(depth.values()))
    place = {
        key: (column[key] * _COLUMN / 2 + 5, rows.index(depth[key]) * (_HEIGHT + _GAP) + 5)
        for key in nodes
    }
    parts = [_line(place[p], place[key]) for key in nodes for p in parents[key]]
    counts = {"int8": 0, "float": 0}
    for key, node in nodes.items():
        kind = _kind(node, precisions)
        if kind in counts:
            counts[kind] += 1
        parts.append(_box(place[key], node, kind, precisions.get(node.name, "")))
    width, height = _COLUMN + _WIDTH + 10, len(rows) * (_HEIGHT + _GAP) - _GAP + 10
    name = add.name or add.output[0]
    skip = f"{len(right)} nodes on the skip" if right else "the skip is the identity"
    words = (
        f"Residual block that ends in {name}: {len(nodes)} nodes, {counts['int8']} computations in "
        f"INT8, {counts['float']} in float; {skip}."
    )
    svg = (
        f'<svg class="graph" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="{html.escape(words)}">{"".join(parts)}</svg>'
    )
    return Block(name, words, svg)


def _behind(
    way: str, makers: Mapping[str, onnx.NodeProto], constant: set[str]
) -> dict[str, onnx.NodeProto]:
    """Output name to node of everything that a tensor is computed from, nearest first."""
    nodes: dict[str, onnx.NodeProto] = {}
    waiting = [way]
    while waiting and len(nodes) < _LIMIT:
        name = waiting.pop(0)
        if name in makers and name not in nodes and name not in constant:
            nodes[name] = makers[name]
            waiting += makers[name].input
    return nodes


def _depth(key: str, parents: Mapping[str, list[str]]) -> int:
    """Longest way from a fork; blocks are shallow enough for recursion."""
    return max((_depth(parent, parents) + 1 for parent in parents[key]), default=0)


def _kind(node: onnx.NodeProto, precisions: Mapping[str, str]) -> str:
    if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        return "qdq"
    precision = precisions.get(node.name)
    if precision is None:
        return "fused"
    return "int8" if precision in ("int8", "uint8") else "float"


def _line(start: tuple[float, float], end: tuple[float, float]) -> str:
    x1, y1 = start[0] + _WIDTH / 2, start[1] + _HEIGHT
    x2, y2 = end[0] + _WIDTH / 2, end[1]
    bend = (y1 + y2) / 2
    return f'<path class="edge" d="M{x1:g},{y1:g}C{x1:g},{bend:g} {x2:g},{bend:g} {x2:g},{y2:g}"/>'


def _box(place: tuple[float, float], node: onnx.NodeProto, kind: str, precision: str) -> str:
    x, y = place
    said = f"{node.op_type} {node.name}" + (f" ({precision})" if precision else "")
    label = {"QuantizeLinear": "Quantize", "DequantizeLinear": "Dequantize"}.get(
        node.op_type, node.op_type
    )
    if precision:
        label += f" · {precision}"
    return (
        f'<g class="{kind}"><title>{html.escape(said)}</title>'
        f'<rect x="{x:g}" y="{y:g}" width="{_WIDTH}" height="{_HEIGHT}" rx="5"/>'
        f'<text x="{x + _WIDTH / 2:g}" y="{y + 20:g}">{html.escape(label)}</text></g>'
    )
