"""Where two forms of a network can be compared: tensors that an engine really stores.

An engine folds a Relu, and often a residual Add, into the convolution before it, so not every
tensor of the FP32 graph exists in it. What exists is what the Q/DQ model quantizes: the integers
behind each QuantizeLinear, read through the DequantizeLinear that follows. Tensors go by their
names in the FP32 graph, which Q/DQ keeps, so FP32, Q/DQ and engine meet under one name.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from edgeres.graph.layers import (
    PASS_THROUGH,
    RECTIFIERS,
    WEIGHTED,
    activations,
    constant,
    consumers,
    node_name,
    only_rectified,
    value_name,
)
from edgeres.quantization.qdq_view import DQ, Q, dequantized, scale_of, zero_point_of

_NOT_WORK = PASS_THROUGH | RECTIFIERS | {"Constant", "Shape", "Softmax"}


@dataclass(frozen=True)
class Point:
    """One tensor at which models are compared.

    Attributes:
        tensor: Its name in the FP32 graph.
        value: Name of the value that holds it here: itself, or its dequantized form.
        stop: Name of the node that gives ``value``.
        twins: Names of further nodes that give the same, where every reader has its own Q/DQ pair.
        node: The layer that it is the output of: the convolution or matrix product since the
            points before, else the op that computes it.
        op: Op type of ``node``.
        nodes: All computing nodes since the points before, in topological order.
        step: Size of one quantization step; ``None`` where the tensor is float here.
        limits: Smallest and largest value that the quantized tensor can hold, a half step beyond
            the outermost integers; ``None`` where it is float here.
        int8_asked: Whether ``node`` reads nothing but dequantized tensors.
        is_output: Whether it is an output of the network.
    """

    tensor: str
    value: str
    stop: str
    twins: tuple[str, ...]
    node: str
    op: str
    nodes: tuple[str, ...]
    step: float | None
    limits: tuple[float, float] | None
    int8_asked: bool
    is_output: bool = False


def is_quantized(model: ir.Model) -> bool:
    """True for a model with Q/DQ."""
    return any(node.op_type == Q for node in model.graph)


def find_points(model: ir.Model, tensors: Collection[str] | None = None) -> tuple[Point, ...]:
    """Points of a model in topological order; behind them its outputs in their own order.

    Args:
        model: FP32 or Q/DQ model with unique names.
        tensors: Only these tensors (and the outputs); left out, all that an engine stores.
    """
    graph = model.graph
    pairs: dict[str, tuple[ir.Value, ir.Value]] = {}
    for value in activations(graph):
        producer, name = value.producer(), value_name(value)
        if producer is None or producer.op_type in (Q, DQ) or value.is_graph_output():
            continue
        held = next(iter(_dequantized_forms(value)), value)
        if name in tensors if tensors is not None else _stored(value, held):
            pairs[name] = (value, held)
    outputs = list(dict.fromkeys(graph.outputs))
    point_values = {v for pair in pairs.values() for v in pair} | set(outputs)
    order = {node: index for index, node in enumerate(graph)}
    points = [_point(value, held, point_values, order) for value, held in pairs.values()]
    last = [_point(output, output, point_values, order) for output in outputs]
    return (*points, *(replace(point, is_output=True) for point in last))


def _stored(value: ir.Value, held: ir.Value) -> bool:
    """True where an engine has this tensor in memory, and it is more than another one moved."""
    producer = value.producer()
    if producer is None or producer.op_type in PASS_THROUGH or only_rectified(value):
        return False
    if held is not value:
        return True
    readers = [node.op_type for node, _ in consumers(value)]
    return bool(readers) and any(op != "Add" and op not in PASS_THROUGH for op in readers)


def _dequantized_forms(value: ir.Value) -> list[ir.Value]:
    """What stands behind the Q/DQ pairs on a tensor; usually one."""
    return [
        node.outputs[0]
        for quantize, _ in consumers(value)
        if quantize.op_type == Q
        for node, _ in consumers(quantize.outputs[0])
        if node.op_type == DQ
    ]


def _point(
    value: ir.Value,
    held: ir.Value,
    point_values: Collection[ir.Value],
    order: Mapping[ir.Node, int],
) -> Point:
    stop = held.producer()
    assert stop is not None  # an output that is an input is no network
    work = _work_since(value, point_values, order)
    main = next((node for node in reversed(work) if node.op_type in WEIGHTED), None)
    main = main or (work[-1] if work else value.producer() or stop)
    return Point(
        tensor=value_name(value),
        value=value_name(held),
        stop=node_name(stop),
        twins=tuple(
            node_name(twin)
            for form in _dequantized_forms(value)
            if held is not value and form is not held and (twin := form.producer()) is not None
        ),
        node=node_name(main),
        op=main.op_type,
        nodes=tuple(node_name(node) for node in work),
        step=None if held is value else float(np.max(scale_of(stop))),
        limits=None if held is value else _limits(stop),
        int8_asked=_asked(main),
    )


def _limits(dequantize: ir.Node) -> tuple[float, float] | None:
    zero, scale = zero_point_of(dequantize), scale_of(dequantize)
    if zero.dtype.kind not in "iu" or zero.size != 1 or scale.size != 1:
        return None
    integers, at, step = np.iinfo(zero.dtype.name), int(zero.flat[0]), float(scale.flat[0])
    return (integers.min - at - 0.5) * step, (integers.max - at + 0.5) * step


def _work_since(
    value: ir.Value, point_values: Collection[ir.Value], order: Mapping[ir.Node, int]
) -> list[ir.Node]:
    """Computing nodes between the points before and a tensor, in topological order."""
    members: set[ir.Node] = set()
    pending = [value.producer()]
    while pending:
        node = pending.pop()
        if node is None or node in members:
            continue
        members.add(node)
        pending += [v.producer() for v in node.inputs if v is not None and v not in point_values]
    work = [node for node in members if node.op_type not in _NOT_WORK | {Q, DQ}]
    return sorted(work, key=lambda node: order[node])


def _asked(node: ir.Node) -> bool:
    """Whether the graph asks for INT8: data and weight come out of DequantizeLinear."""
    data = node.inputs[:2] if node.op_type in WEIGHTED else node.inputs
    sources = [
        v for v in data if v is not None and (node.op_type in WEIGHTED or constant(v) is None)
    ]
    return bool(sources) and all(dequantized(v) for v in sources)
