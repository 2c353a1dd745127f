"""Cuts one node out of a network, with as much around it as an engine may fuse with it.

An engine decides by the neighbours how it computes a node: an average pool between two INT8
convolutions runs in integers, alone it may run in float. So the cut goes back to the weighted layer
before the node and forward to the one behind it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgeres.graph.layers import WEIGHTED, constant, consumers, only_rectified, value_name
from edgeres.quantization.qdq_view import DQ, Q
from edgeres.quantization.stored_weight import INTEGER_OPS

_WEIGHTED = WEIGHTED | INTEGER_OPS
_MOST_NODES = 40
#: Where the output is float, an engine that keeps integers inside still rounds them once; and once
#: in each layer that it runs.
_ONE_ROUNDING_DB, _SEVERAL_ROUNDINGS_DB = 30.0, 20.0
#: No pair of two such weights leaves int16.
_SAFE = 63


@dataclass(frozen=True)
class Cut:
    """One node on its own, and with its neighbours.

    Attributes:
        whole: The node with its neighbours; gives ``reads`` that are not inputs, and ``gives``.
        alone: From ``reads`` to ``gives``: the arithmetic that the file asks for.
        inputs: Inputs of ``whole``: name to a dtype and shape, the batch 1.
        reads: What the node reads, by name.
        gives: What comes out, behind the Relu and the Q/DQ that follow where there are any; or what
            the layer behind it makes of it.
        step: One quantization step of ``gives``, ``None`` where it is float.
        least_db: SQNR of ``gives`` that rounding alone leaves, where it is float.
    """

    whole: bytes
    alone: bytes
    inputs: dict[str, tuple[np.dtype[np.generic], tuple[int, ...]]]
    reads: tuple[str, ...]
    gives: str
    step: float | None
    least_db: float


def cut_out(model: ir.Model, node: ir.Node) -> tuple[Cut, ...]:
    """Cuts out one node; shapes must have been inferred for a batch of 1.

    An engine may move the scales of a node into the layer behind it, which it does not where the
    node's own tensors are asked for. So there is a second cut where nothing is stored behind the
    node: it gives only what that layer makes of it, and its weights cannot saturate.

    Returns:
        One or two cuts; none where the shape of something that it reads is not known.
    """
    reads = [v for v in node.inputs if v is not None and constant(v) is None and _computed(v)]
    before, starts = _back(reads)
    if not reads or any(_spec(value) is None for value in starts):
        return ()
    behind, gives = _until_stored(node)
    ahead = _ahead(gives)
    core = [node, *behind]
    around = [*before, *core, *([] if ahead is None else [ahead])]
    outputs = [gives, *(v for v in reads if v not in starts)]
    outputs += [] if ahead is None else ahead.outputs
    quantize = next((each for each in behind if each.op_type == Q), None)
    step = None if quantize is None else constant(quantize.inputs[1])
    inputs = {value_name(v): spec for v in starts if (spec := _spec(v)) is not None}
    own = Cut(
        whole=_model(model, around, starts, outputs),
        alone=_model(model, core, reads, [gives]),
        inputs=inputs,
        reads=tuple(map(value_name, reads)),
        gives=value_name(gives),
        step=None if step is None else float(np.max(step)),
        least_db=_ONE_ROUNDING_DB,
    )
    if ahead is None or quantize is not None:
        return (own,)
    joined = _model(model, around, starts, ahead.outputs, safe=True)
    last = value_name(ahead.outputs[0])
    return own, Cut(joined, joined, inputs, tuple(inputs), last, None, _SEVERAL_ROUNDINGS_DB)


def _computed(value: ir.Value) -> bool:
    """False for a weight or bias behind a DequantizeLinear."""
    producer = value.producer()
    return producer is None or producer.op_type != DQ or constant(producer.inputs[0]) is None


def _until_stored(node: ir.Node) -> tuple[list[ir.Node], ir.Value]:
    """The Relu and the Q/DQ pair behind a node, and the last of their outputs."""
    chain: list[ir.Node] = []
    value = node.outputs[0]
    while only_rectified(value):
        chain.append(consumers(value)[0][0])
        value = chain[-1].outputs[0]
    uses = [reader for reader, _ in consumers(value)]
    quantize = next((reader for reader in uses if reader.op_type == Q), None)
    if quantize is None:
        return chain, value
    readers = [reader for reader, _ in consumers(quantize.outputs[0]) if reader.op_type == DQ]
    if not readers:
        return chain, value
    return [*chain, quantize, readers[0]], readers[0].outputs[0]


def _back(values: Iterable[ir.Value]) -> tuple[list[ir.Node], list[ir.Value]]:
    """Nodes from the weighted layer before some values on, and the values where they begin."""
    nodes: dict[ir.Node, None] = {}
    starts: dict[ir.Value, None] = {}
    pending = [(value, False) for value in values]
    while pending:
        value, passed = pending.pop()
        producer = value.producer()
        whole = len(nodes) >= _MOST_NODES
        if producer is None or whole or (passed and producer.op_type not in (Q, DQ)):
            starts[value] = None
            continue
        nodes[producer] = None
        passed = passed or producer.op_type in _WEIGHTED
        pending += [
            (v, passed)
            for v in producer.inputs
            if v is not None and constant(v) is None and _computed(v)
        ]
    return list(nodes), list(starts)


def _ahead(value: ir.Value) -> ir.Node | None:
    """The weighted layer that reads a value."""
    for reader, index in consumers(value):
        if reader.op_type in _WEIGHTED and index == 0:
            return reader
    return None


def _with_constants(nodes: Sequence[ir.Node]) -> list[ir.Node]:
    """The nodes, and those that make their constant inputs."""
    members = dict.fromkeys(nodes)
    for node in nodes:
        for value in node.inputs:
            producer = None if value is None else value.producer()
            if value is None or producer is None:
                continue
            if constant(value) is not None or not _computed(value):
                members[producer] = None
                makers = (v.producer() for v in producer.inputs if v is not None)
                members |= dict.fromkeys(maker for maker in makers if maker is not None)
    return list(members)


def _spec(value: ir.Value) -> tuple[np.dtype[np.generic], tuple[int, ...]] | None:
    if value.shape is None or value.dtype is None:
        return None
    sizes = [size if isinstance(size, int) else None for size in value.shape]
    shape = tuple(size for size in sizes if size is not None)
    return (value.dtype.numpy(), shape) if len(shape) == len(sizes) else None


def _model(
    model: ir.Model,
    nodes: Sequence[ir.Node],
    reads: Sequence[ir.Value],
    gives: Sequence[ir.Value],
    *,
    safe: bool = False,
) -> bytes:
    order = {each: index for index, each in enumerate(model.graph)}
    nodes = sorted(_with_constants(nodes), key=order.__getitem__)
    outputs = {value for node in nodes for value in node.outputs}
    stored: dict[str, NDArray[np.generic]] = {
        value_name(value): value.const_value.numpy()
        for node in nodes
        for value in node.inputs
        if value is not None and value.const_value is not None and value not in outputs
    }
    if safe:
        for name, content in stored.items():
            if content.dtype == np.int8 and content.ndim > 1:
                stored[name] = np.clip(content, -_SAFE, _SAFE).astype(np.int8)
    graph = helper.make_graph(
        [ir.to_proto(node) for node in nodes],
        "cut",
        [_info(value) for value in reads],
        [_info(value) for value in dict.fromkeys(gives)],
        [numpy_helper.from_array(content, name) for name, content in stored.items()],
    )
    proto = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid(d, v) for d, v in model.opset_imports.items()],
        ir_version=model.ir_version,
    )
    return bytes(proto.SerializeToString())


def _info(value: ir.Value) -> onnx.ValueInfoProto:
    spec = _spec(value)
    dtype = ir.DataType.FLOAT if value.dtype is None else value.dtype
    return helper.make_tensor_value_info(
        value_name(value), int(dtype), None if spec is None else spec[1]
    )
