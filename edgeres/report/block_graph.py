"""Residual blocks of a quantized network: which nodes there are, and what runs in INT8.

A block is a residual Add with the two ways that lead to it from where they part. Constants and the
DequantizeLinear of weights are left out; what is shown is what data flows through.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeres.graph.summary import read_proto

if TYPE_CHECKING:
    import onnx

MOST_BLOCKS = 200
_LIMIT = 400  # nodes of a way; more is no residual block
_SHORT = {"QuantizeLinear": "Quantize", "DequantizeLinear": "Dequantize"}


@dataclass(frozen=True)
class Box:
    """One node of a block.

    Attributes:
        label: What stands in it.
        title: Operator, name and precision.
        kind: ``int8``, ``float``, ``qdq``, or ``fused`` where the engine names no layer for it.
        column: 0 for the longer way, 2 for the other one, 1 for both.
        row: From the top.
    """

    label: str
    title: str
    kind: str
    column: int
    row: int


@dataclass(frozen=True)
class Block:
    """A residual Add by its ONNX name.

    Attributes:
        name: Of the Add.
        words: The block in a sentence.
        boxes: Its nodes.
        lines: Places in ``boxes``: from where to where data flows.
    """

    name: str
    words: str
    boxes: tuple[Box, ...]
    lines: tuple[tuple[int, int], ...]

    @property
    def in_float(self) -> int:
        """Computations that run in float."""
        return sum(box.kind == "float" for box in self.boxes)


def residual_blocks(path: Path, precisions: Mapping[str, str]) -> list[Block]:
    """The residual blocks of a Q/DQ model, in the order of the network.

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
            blocks.append(_block(node, ways, makers, constant, precisions))
    return blocks[:MOST_BLOCKS]


def _block(
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
    depth = _depths(parents)
    rows = {value: number for number, value in enumerate(sorted(set(depth.values())))}
    column = {key: 0 if key in left else 2 if key in right else 1 for key in nodes}
    if len(forks) == 2:  # side by side, not on top of each other
        column |= dict(zip(forks, (0, 2), strict=True))
    places = {key: number for number, key in enumerate(nodes)}
    boxes = tuple(
        _box(node, column[key], rows[depth[key]], precisions.get(node.name))
        for key, node in nodes.items()
    )
    lines = tuple((places[parent], places[key]) for key in nodes for parent in parents[key])
    counts = {kind: sum(box.kind == kind for box in boxes) for kind in ("int8", "float")}
    name = add.name or add.output[0]
    skip = f"On the skip: {len(right)}." if right else "The skip is the identity."
    words = (
        f"Residual block that ends in {name}. Nodes: {len(nodes)}; computations in INT8: "
        f"{counts['int8']}, in float: {counts['float']}. {skip}"
    )
    return Block(name, words, boxes, lines)


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


def _depths(parents: Mapping[str, list[str]]) -> dict[str, int]:
    """Longest way from a fork to each node; each node is looked at once."""
    children: dict[str, list[str]] = {key: [] for key in parents}
    for key, above in parents.items():
        for parent in above:
            children[parent].append(key)
    missing = {key: len(above) for key, above in parents.items()}
    ready = [key for key, count in missing.items() if not count]
    depth = dict.fromkeys(ready, 0)
    while ready:
        key = ready.pop()
        for child in children[key]:
            depth[child] = max(depth.get(child, 0), depth[key] + 1)
            missing[child] -= 1
            if not missing[child]:
                ready.append(child)
    return depth


def _box(node: onnx.NodeProto, column: int, row: int, precision: str | None) -> Box:
    if node.op_type in _SHORT:
        kind = "qdq"
    elif precision is None:
        kind = "fused"
    else:
        kind = "int8" if precision in ("int8", "uint8") else "float"
    label = _SHORT.get(node.op_type, node.op_type) + (f" · {precision}" if precision else "")
    title = f"{node.op_type} {node.name}" + (f" ({precision})" if precision else "")
    return Box(label, title, kind, column, row)
