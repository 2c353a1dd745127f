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

from edgeres.quantization.graph import WEIGHTED, constant, consumers, only_rectified, value_name
from edgeres.quantization.qdq_view import DQ, Q
from edgeres.quantization.stored_weight import INTEGER_OPS

_WEIGHTED = WEIGHTED | INTEGER_OPS
_MOST_NODES = 40


@dataclass(frozen=True)
class Cut:
    """One node on its own, and with its neighbours.

    Attributes:
        whole: The node with its neighbours; gives ``reads`` that are not inputs, ``gives``, and
            what the layer behind it makes of it.
        alone: From ``reads`` to ``gives``: the arithmetic that the file asks for.
        inputs: Inputs of ``whole``: name to a dtype and shape, the batch 1.
        reads: What the node reads, by name.
        gives: What comes out, behind the Relu and the Q/DQ that follow where there are any.
        step: One quantization step of ``gives``, ``None`` where it is float.
    """

    whole: bytes
    alone: bytes
    inputs: dict[str, tuple[np.dtype[np.generic], tuple[int, ...]]]
    reads: tuple[str, ...]
    gives: str
    step: float | None


def cut_out(model: ir.Model, node: ir.Node) -> Cut | None:
    """Cuts out one node; shapes must have been inferred for a batch of 1.

    Returns:
        ``None`` where the shape of something that it reads is not known.
    """
    reads = [v for v in node.inputs if v is not None and constant(v) is None and _computed(v)]
    behind, gives = _until_stored(node)
    before, starts = _back(reads)
    ahead = _ahead(gives)
    shapes = {value_name(value): _spec(value) for value in starts}
    if not reads or any(spec is None for spec in shapes.values()):
        return None
    order = {each: index for index, each in enumerate(model.graph)}
    core = _with_constants([node, *behind])
    everything = _with_constants([*before, *core, *ahead])
    further = [v for v in reads if v not in starts]
    outputs = [gives, *further, *(each.outputs[0] for each in ahead if each.op_type in _WEIGHTED)]
    quantize = next((each for each in behind if each.op_type == Q), None)
    step = None if quantize is None else constant(quantize.inputs[1])
    return Cut(
        whole=_model(model, sorted(everything, key=order.__getitem__), starts, outputs),
        alone=_model(model, sorted(core, key=order.__getitem__), reads, [gives]),
        inputs={name: spec for name, spec in shapes.items() if spec is not None},
        reads=tuple(map(value_name, reads)),
        gives=value_name(gives),
        step=None if step is None else float(np.max(step)),
    )


def _computed(value: ir.Value) -> bool:
    """False for a weight or bias behind a DequantizeLinear."""
    producer = value.producer()
    return producer is None or producer.op_type != DQ or constant(producer.inputs[0]) is None


def _until_stored(node: ir.Node) -> tuple[list[ir.Node], ir.Value]:
    """The Relu and the Q/DQ pair behind a node, and the last of their outputs."""
    found: list[ir.Node] = []
    value = node.outputs[0]
    while only_rectified(value):
        found.append(consumers(value)[0][0])
        value = found[-1].outputs[0]
    uses = [reader for reader, _ in consumers(value)]
    quantize = next((reader for reader in uses if reader.op_type == Q), None)
    if quantize is None:
        return found, value
    readers = [reader for reader, _ in consumers(quantize.outputs[0]) if reader.op_type == DQ]
    if not readers:
        return found, value
    return [*found, quantize, readers[0]], readers[0].outputs[0]


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


def _ahead(value: ir.Value) -> list[ir.Node]:
    """The weighted layer that reads a value, with the Q/DQ pair before it if it stands there."""
    for reader, index in consumers(value):
        if reader.op_type in _WEIGHTED and index == 0:
            return [reader]
    return []


def _with_constants(nodes: Sequence[ir.Node]) -> list[ir.Node]:
    """The nodes, and those that make their constant inputs."""
    found = dict.fromkeys(nodes)
    for node in nodes:
        for value in node.inputs:
            producer = None if value is None else value.producer()
            if value is None or producer is None:
                continue
            if constant(value) is not None or not _computed(value):
                found[producer] = None
                makers = (v.producer() for v in producer.inputs if v is not None)
                found |= dict.fromkeys(maker for maker in makers if maker is not None)
    return list(found)


def _spec(value: ir.Value) -> tuple[np.dtype[np.generic], tuple[int, ...]] | None:
    if value.shape is None or value.dtype is None:
        return None
    sizes = [size if isinstance(size, int) else None for size in value.shape]
    known = tuple(size for size in sizes if size is not None)
    return (value.dtype.numpy(), known) if len(known) == len(sizes) else None


def _model(
    model: ir.Model, nodes: Sequence[ir.Node], reads: Sequence[ir.Value], gives: Sequence[ir.Value]
) -> bytes:
    made = {value for node in nodes for value in node.outputs}
    stored: dict[str, NDArray[np.generic]] = {
        value_name(value): value.const_value.numpy()
        for node in nodes
        for value in node.inputs
        if value is not None and value.const_value is not None and value not in made
    }
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
