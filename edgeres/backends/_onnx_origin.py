"""Which ONNX nodes an optimized layer stands for, told from names and from the source graph.

Optimizers keep the name of one node of a fused group, or name the layer after a tensor, and forget
the rest. The rest is found by following the source graph: a convolution without a layer is in the
layer that its only reader is in; any other node without one is in its producer's layer, or, where
that is not so because the optimizer wrote it out as several, in the layers without a name that
follow that one. It was written out where a DequantizeLinear of its own ran before it, or where
layers with a bare operator and a number for a name follow.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from edgeres.graph.summary import read_proto

_DECORATION = re.compile(r"(_token_\d+|_nchwc|/duplicated)+$")
_WRITTEN_OUT = re.compile(r"[A-Z][A-Za-z]*_\d+$")  # ONNX Runtime's name for a part of a function
_FUSED = "fused "  # in front of a product that took its activation in
_PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_RECTIFIERS = frozenset({"Relu", "Clip"})  # every optimizer takes them in
_NOT_WORK = frozenset({"QuantizeLinear", "DequantizeLinear", "Constant"})


@dataclass(frozen=True)
class SourceNode:
    """A node of the ONNX file that an engine was built from."""

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def read_nodes(path: Path) -> tuple[SourceNode, ...]:
    """Nodes of an ONNX file in its (topological) order; a node without a name has its output's.

    Raises:
        ModelError: The file is no ONNX model.
    """
    return tuple(
        SourceNode(node.name or node.output[0], node.op_type, tuple(node.input), tuple(node.output))
        for node in read_proto(path).graph.node
    )


def origins(nodes: Sequence[SourceNode], layers: Sequence[str]) -> list[tuple[str, ...]]:
    """Finds the nodes of each layer.

    Args:
        nodes: Nodes of the source, in topological order.
        layers: Names of the engine's layers, in the order in which they run.

    Returns:
        For each layer the names of its nodes in the source's order; empty for a layer that the
        engine added, such as a change of memory layout.
    """
    by_name = {node.name: node for node in nodes}
    producer = {tensor: node for node in nodes for tensor in node.outputs}
    home: dict[str, int] = {}
    found: list[set[str]] = [set() for _ in layers]
    for index, layer in enumerate(layers):
        base = _DECORATION.sub("", layer.removeprefix(_FUSED))
        node = by_name.get(layer) or by_name.get(base) or producer.get(base)
        if node is not None:
            found[index].add(node.name)
            home.setdefault(node.name, index)
    readers: dict[str, list[SourceNode]] = {}
    for node in nodes:
        for tensor in node.inputs:
            readers.setdefault(tensor, []).append(node)
    for node in reversed(nodes):
        if node.op in _PRODUCTS and node.name not in home:
            next_home = _reader_home(node, readers, home)
            if next_home is not None:
                home[node.name] = next_home
    _follow_producers(nodes, producer, home, found, layers)
    for name, index in home.items():
        found[index].add(name)
    return [tuple(node.name for node in nodes if node.name in names) for names in found]


def _follow_producers(
    nodes: Sequence[SourceNode],
    producer: dict[str, SourceNode],
    home: dict[str, int],
    found: Sequence[set[str]],
    layers: Sequence[str],
) -> None:
    """Gives the nodes without a layer that of what they read from; in place."""
    for node in nodes:
        if node.name in home or node.op in _NOT_WORK | _PRODUCTS:
            continue
        dequantized = [home[n] for t in node.inputs if (n := _dequantizer(t, producer)) in home]
        if dequantized:  # what it reads was written as floats, so no INT8 layer took it in
            for index in _nameless(found, max(dequantized)):
                found[index].add(node.name)
                home[node.name] = index
            continue
        before = [home[p.name] for p in _work_before(node, producer) if p.name in home]
        if before:
            behind = _nameless(found, max(before)) if node.op not in _RECTIFIERS else []
            parts = list(takewhile(lambda index: _WRITTEN_OUT.match(layers[index]), behind))
            for index in parts:
                found[index].add(node.name)
            home[node.name] = max(parts, default=max(before))


def _reader_home(
    node: SourceNode, readers: dict[str, list[SourceNode]], home: dict[str, int]
) -> int | None:
    """Layer of the first node downstream that has one, as long as the way there does not fork."""
    while True:
        following = [reader for tensor in node.outputs for reader in readers.get(tensor, ())]
        if len(following) != 1:
            return None
        node = following[0]
        if node.op in _PRODUCTS or node.op in _NOT_WORK:
            return None
        if node.name in home:
            return home[node.name]


def _dequantizer(tensor: str, producer: dict[str, SourceNode]) -> str:
    """Name of the DequantizeLinear that gives a tensor; empty where another node does."""
    node = producer.get(tensor)
    return node.name if node is not None and node.op == "DequantizeLinear" else ""


def _nameless(found: Sequence[set[str]], after: int) -> list[int]:
    """The layers right behind one that stand for no node: the parts of an expanded operator."""
    rest = range(after + 1, len(found))
    return list(takewhile(lambda index: not found[index], rest))


def _work_before(node: SourceNode, producer: dict[str, SourceNode]) -> list[SourceNode]:
    """Nodes that feed this one, looking through Q/DQ."""
    before: list[SourceNode] = []
    pending = [producer[tensor] for tensor in node.inputs if tensor in producer]
    while pending:
        candidate = pending.pop()
        if candidate.op in ("QuantizeLinear", "DequantizeLinear"):
            pending += [producer[t] for t in candidate.inputs[:1] if t in producer]
        else:
            before.append(candidate)
    return before
