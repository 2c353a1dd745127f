"""INT8 coverage: the share of the multiply-adds that a built engine runs in INT8, by its own word.

Only convolutions and matrix products count: they are the work. A node that the engine does not
account for counts as float, so that coverage is never flattered by a gap in the engine's report.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgeres.backends.base import LayerInfo
from edgeres.errors import ModelError

_INT8 = frozenset({"int8", "uint8"})


@dataclass(frozen=True)
class FloatLayer:
    """A node whose multiply-adds do not run in INT8, and why that is known."""

    name: str
    macs: int
    precision: str
    reason: str


@dataclass(frozen=True)
class Coverage:
    """Share of MACs in INT8, in [0, 1], and the nodes that are not, largest first."""

    int8_coverage: float
    macs: int
    float_layers: tuple[FloatLayer, ...]

    def to_dict(self) -> dict[str, object]:
        """As plain JSON values, with the field names of ``report.json``."""
        return {
            "int8_coverage": self.int8_coverage,
            "macs": self.macs,
            "float_layers": [vars(layer).copy() for layer in self.float_layers],
        }


def int8_coverage(macs_by_node: Mapping[str, int], layers: Sequence[LayerInfo]) -> Coverage:
    """Weighs each node by its MACs and asks the engine's layers for its precision.

    A node that several layers name (a computation and the copies around it) is in INT8 only where
    all of those layers are.

    Args:
        macs_by_node: Multiply-adds of one sample by the ONNX name of the node; see
            :func:`edgeres.graph.summary.node_macs`.
        layers: Layers of the built engine.

    Raises:
        ModelError: There are no multiply-adds to weigh.
    """
    total = sum(macs_by_node.values())
    if total <= 0:
        raise ModelError(
            "expected a network with convolutions or matrix products, got none.",
            hint="INT8 coverage is measured in their multiply-adds.",
        )
    by_node = layers_by_node(layers)
    in_float: list[FloatLayer] = []
    for node, macs in macs_by_node.items():
        node_layers = by_node.get(node, [])
        other = [layer for layer in node_layers if layer.precision not in _INT8]
        if not node_layers:
            reason = "the engine reports no layer for it"
            in_float.append(FloatLayer(node, macs, "unknown", reason))
        elif other:
            reason = f"the engine runs {other[0].name} ({other[0].op}) in {other[0].precision}"
            known = next((layer.reason for layer in other if layer.reason), "")
            reason += f": {known}" if known else ""
            in_float.append(FloatLayer(node, macs, other[0].precision, reason))
    in_float.sort(key=lambda layer: -layer.macs)
    left_out = sum(layer.macs for layer in in_float)
    return Coverage((total - left_out) / total, total, tuple(in_float))


def layers_by_node(layers: Sequence[LayerInfo]) -> dict[str, list[LayerInfo]]:
    """The engine's layers by the ONNX nodes that they compute, each of which several may name."""
    by_node: dict[str, list[LayerInfo]] = {}
    for layer in layers:
        for node in layer.nodes or (layer.name,):
            by_node.setdefault(node, []).append(layer)
    return by_node


def node_precision(found: Sequence[LayerInfo]) -> str:
    """Precision of one node by the layers that compute it: ``int8`` only where all of them are."""
    other = [layer.precision for layer in found if layer.precision not in _INT8]
    return other[0] if other else ("int8" if found else "unknown")
