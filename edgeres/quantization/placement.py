"""Where Q/DQ stands: which tensors of an FP32 graph, and which readers, a rule set asks for.

The placement follows what engines fuse. An INT8 op needs its float inputs behind a
DequantizeLinear; an engine that fuses only DQ -> op -> Q needs its output quantized too
(``quantize_outputs``). A Relu or Clip folds into the op before it, so the tensor behind it is the
one that is quantized. At a residual Add either both inputs are quantized, or only the one on the
skip path, so that the convolution on the main path can take the Add into its epilogue.

Nothing here changes the graph.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import onnx_ir as ir

from edgeres.backends.base import QdqRules
from edgeres.errors import UsageError
from edgeres.graph.byte_values import is_image
from edgeres.graph.layers import (
    PASS_THROUGH,
    RECTIFIERS,
    WEIGHTED,
    Layer,
    consumers,
    inputs,
    is_activation,
    is_norm,
    layer_of,
    multiplies_activations,
    node_name,
    only_moves,
    only_rectified,
    value_name,
)
from edgeres.quantization.epilogues import added_inside, is_sum, runs_inside
from edgeres.quantization.faulty_kernels import fault_of, read_in_float

#: Reason in ``float_nodes`` for the nodes that a rule set names.
KEPT_FLOAT = "kept in float: sensitivity"

_FLOAT_PATH = "an AveragePool or a Pad behind it is in float and may not read Q/DQ"
_POOLS = frozenset({"MaxPool", "AveragePool", "GlobalAveragePool", "ReduceMean"})
_JOINS = frozenset({"Add", "Mul", "Concat"})
_DENSE = WEIGHTED - {"Conv"}
_MOVES = frozenset({"Constant", "Shape", "Gather", "Concat", "Split", "Slice", "Expand", "Tile",
                    "DepthToSpace", "SpaceToDepth", "Cast"})  # fmt: skip
_NO_ARITHMETIC = PASS_THROUGH | RECTIFIERS | _MOVES | {"Softmax"}


@dataclass(frozen=True)
class Placement:
    """What a rule set asks of one graph.

    Attributes:
        layers: Weighted layers that become INT8, in topological order.
        readers: Tensor name to the readers ``(node, input index)`` that take its dequantized
            form; every other reader keeps the float tensor.
        everywhere: Tensors of which every reader takes the dequantized form.
        source: Tensor name to the tensor whose range it shares, because the op between only moves
            or selects values.
        quantized_nodes: Names of the nodes that become INT8.
        float_nodes: Name to the reason, for arithmetic that stays float. What an INT8 layer
            computes before it writes its sums is none (a Relu, ``rules.epilogues``).
    """

    layers: tuple[Layer, ...]
    readers: dict[str, tuple[tuple[ir.Node, int], ...]]
    everywhere: frozenset[str]
    source: dict[str, str]
    quantized_nodes: tuple[str, ...]
    float_nodes: dict[str, str]

    @property
    def tensors(self) -> tuple[str, ...]:
        """All tensors that take Q/DQ, in topological order."""
        return tuple(self.readers)


@dataclass(frozen=True)
class Nature:
    """What a graph is to a rule set, whatever is kept in float: for many placements of one graph.

    Attributes:
        depth: As :func:`depths`.
        float_path: As :func:`edgeres.quantization.faulty_kernels.read_in_float`.
        reasons: Why each node stays float; ``None`` where it becomes INT8.
        layers: The weighted layers among those that do.
    """

    depth: dict[str, int]
    float_path: frozenset[ir.Node]
    reasons: dict[ir.Node, str | None]
    layers: dict[ir.Node, Layer]


def nature(graph: ir.Graph, rules: QdqRules) -> Nature:
    """Looks at every node of a graph once."""
    float_path = read_in_float(graph, rules)
    reasons = {
        node: _reason_for_float(node, rules) or (_FLOAT_PATH if node in float_path else None)
        for node in graph
    }
    found = {node: layer_of(node) for node, reason in reasons.items() if reason is None}
    layers = {node: layer for node, layer in found.items() if layer is not None}
    return Nature(depths(graph), float_path, reasons, layers)


def place(graph: ir.Graph, rules: QdqRules, known: Nature | None = None) -> Placement:
    """Decides where Q/DQ stands under a rule set.

    Args:
        graph: The float graph.
        rules: The rule set.
        known: What :func:`nature` gave for both, whatever the rules kept in float then.

    Raises:
        UsageError: The rules keep a node in float that is not there.
    """
    unknown = rules.keep_float - {node_name(node) for node in graph}
    if unknown:
        raise UsageError(
            f"nodes to keep in float are not in the model: {', '.join(sorted(unknown))}.",
            hint="Name them as the FP32 ONNX file does.",
        )
    layers: list[Layer] = []
    uses: dict[str, list[tuple[ir.Node, int]]] = {}
    everywhere: set[str] = set()
    quantized: list[ir.Node] = []
    hosts: list[ir.Node] = []  # and those that only the choice of layers keeps in float
    in_float: dict[str, str] = {}
    known = known or nature(graph, rules)
    depth, float_path = known.depth, known.float_path
    for node in graph:
        is_kept = node_name(node) in rules.keep_float
        own_reason = known.reasons[node]
        reason = KEPT_FLOAT if is_kept else own_reason
        if reason is None and node.op_type == "Add" and rules.float_adds:
            skip = skip_input(node, depth)
            if not is_sum(node.inputs[1 - skip], hosts):
                if is_sum(node.inputs[skip], hosts) or added_inside(node, rules, quantized):
                    continue  # the layer of one input adds the other to its sums
                reason = f"{rules.name} adds in float where no INT8 layer gives the main input"
        if reason is None or (own_reason is None and reason == KEPT_FLOAT):
            hosts.append(node)
        if reason is not None:
            if not (_only_moves(node) or runs_inside(node, rules, quantized)):
                in_float[node_name(node)] = reason
            continue
        quantized.append(node)
        if node in known.layers:
            layers.append(known.layers[node])
        for index in _quantized_inputs(node, rules, depth):
            value = node.inputs[index]
            assert value is not None
            uses.setdefault(value_name(value), []).append((node, index))
        if node.op_type in _POOLS or (rules.quantize_outputs and node.op_type not in _DENSE):
            stored = _stored_output(node, rules)
            if stored is not None:
                uses.setdefault(value_name(stored), [])
                everywhere.add(value_name(stored))
    readers = {
        value_name(value): tuple(
            [use for use in consumers(value) if use[0] not in float_path]
            if value_name(value) in everywhere
            else sorted(uses[value_name(value)], key=lambda use: (node_name(use[0]), use[1]))
        )
        for value in _values(graph)
        if value_name(value) in uses
    }
    source = {name: _range_source(value) for name, value in _by_name(graph, readers).items()}
    return Placement(
        tuple(layers),
        readers,
        frozenset(everywhere),
        source,
        tuple(node_name(node) for node in quantized),
        in_float,
    )


def _reason_for_float(node: ir.Node, rules: QdqRules) -> str | None:
    """Why a node stays float; ``None`` where it becomes INT8."""
    op = node.op_type
    if op not in rules.ops or node.domain not in ("", "ai.onnx"):
        return f"{rules.name} runs {op} in float"
    if op in WEIGHTED:
        reason = _reason_for_float_layer(node, rules)
    elif op in _JOINS:
        constants = not all(is_activation(value) for value in node.inputs)
        reason = f"one input of this {op} is a constant" if constants else None
        if op == "Concat" and is_image(node.outputs[0]):
            reason = "it arranges the image, which is quantized once, behind it"
    else:
        reason = None if is_activation(node.inputs[0]) else f"the input of this {op} is no image"
    reason = reason or fault_of(node, rules)
    needs_output = rules.quantize_outputs and op not in _DENSE | {"MaxPool"}
    if reason is None and needs_output and not _is_stored(node, rules):
        return f"{rules.name} runs {op} in INT8 only if its output is, which the answer is not"
    return reason


def _reason_for_float_layer(node: ir.Node, rules: QdqRules) -> str | None:
    if multiplies_activations(node):
        text = f"{rules.name} is not given products of two computed tensors in INT8"
        return text if rules.products == "float" else None
    if layer_of(node) is None:
        return f"this {node.op_type} has no constant float32 weight of the usual form"
    if rules.float_norms and is_norm(node):
        return f"{rules.name} computes the factor and shift of a norm better in float"
    return None


def _only_moves(node: ir.Node) -> bool:
    """Whether a node computes no numbers of its own: zeros around an image are none."""
    return node.op_type in _NO_ARITHMETIC or (node.op_type == "Pad" and only_moves(node))


def _quantized_inputs(node: ir.Node, rules: QdqRules, depth: dict[str, int]) -> tuple[int, ...]:
    """Indices of the inputs that must stand behind DequantizeLinear."""
    if node.op_type not in _JOINS:
        return (0, 1) if multiplies_activations(node) else (0,)
    if node.op_type == "Add" and rules.residual == "skip":
        return (skip_input(node, depth),)
    return tuple(range(len(node.inputs)))


def skip_input(node: ir.Node, depth: dict[str, int]) -> int:
    """The input of a residual Add that comes by the shorter path: fewer convolutions before it."""
    first, second = (depth[value_name(value)] for value in node.inputs if value is not None)
    return 0 if first < second else 1


def depths(graph: ir.Graph) -> dict[str, int]:
    """Most weighted layers on any path from the image to each tensor."""
    depth = {value_name(value): 0 for value in inputs(graph)}
    for node in graph:
        before = max((depth.get(v.name or "", 0) for v in node.inputs if v is not None), default=0)
        own = 1 if node.op_type in WEIGHTED else 0
        for value in node.outputs:
            depth[value_name(value)] = before + own
    return depth


def _stored_output(node: ir.Node, rules: QdqRules) -> ir.Value | None:
    """The tensor that an INT8 op leaves in memory: its output, or what a folded Relu makes of it.

    ``None`` for the logits, which stay float.
    """
    value = node.outputs[0]
    if not rules.quantize_before_relu:
        while only_rectified(value):
            value = consumers(value)[0][0].outputs[0]
    reaches_logits = value.is_graph_output() or not consumers(value)
    return None if reaches_logits or only_moved_to_output(value) else value


def _is_stored(node: ir.Node, rules: QdqRules) -> bool:
    """Whether the output of an INT8 op stands in front of a Q: its own, or that of a pool."""
    value = node.outputs[0]
    while only_rectified(value):
        value = consumers(value)[0][0].outputs[0]
    pooled = any(reader.op_type == "MaxPool" for reader, _ in consumers(value))
    return pooled or _stored_output(node, rules) is not None


def only_moved_to_output(value: ir.Value) -> bool:
    """True where only moving ops or a Softmax stand between a tensor and the graph output."""
    uses = consumers(value)
    return bool(uses) and all(
        node.op_type in PASS_THROUGH | {"Softmax"}
        and (node.outputs[0].is_graph_output() or only_moved_to_output(node.outputs[0]))
        for node, _ in uses
    )


def _range_source(value: ir.Value) -> str:
    """The tensor whose range counts.

    It lies before all ops that only move or select values. Before a Relu it is the tensor behind
    it: what the Relu cuts away needs no levels, and with one scale for both the Relu is exact.
    """
    while only_rectified(value):
        value = consumers(value)[0][0].outputs[0]
    node = value.producer()
    while node is not None and only_moves(node):
        before = node.inputs[0]
        assert before is not None
        value, node = before, before.producer()
    return value_name(value)


def _values(graph: ir.Graph) -> list[ir.Value]:
    """Inputs and outputs of all nodes, in topological order."""
    return [*inputs(graph), *(value for node in graph for value in node.outputs)]


def _by_name(graph: ir.Graph, names: Collection[str]) -> dict[str, ir.Value]:
    return {value_name(v): v for v in _values(graph) if v.name and v.name in names}
