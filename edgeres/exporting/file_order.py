"""A file as ONNX asks for it, where engines ask for less: node order and declared shapes.

Tools that add nodes at the end of a file leave them behind those that read them, and converters
leave the shape of an output or of a weight among the inputs open. ONNX Runtime runs all of these.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence

import onnx


def put_in_order(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same network, each node behind those that it reads from, outputs and weights with shapes.

    Nodes keep their order where it does not matter. A circle is left for the checker to name.
    """
    graph = model.graph
    order = _order(graph.node)
    unshaped = any(not output.type.tensor_type.HasField("shape") for output in graph.output)
    weights = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    loose = [v.name for v in graph.input if weights.get(v.name, _sizes(v)) != _sizes(v)]
    if not unshaped and not loose and order == list(range(len(graph.node))):
        return model
    made = onnx.ModelProto()
    made.CopyFrom(model)
    del made.graph.node[:]
    made.graph.node.extend(graph.node[place] for place in order)
    for value in made.graph.input:
        if value.name in loose:
            _set_sizes(value, weights[value.name])
    return _with_shapes(made) if unshaped else made


def _sizes(value: onnx.ValueInfoProto) -> list[int | None]:
    dims = value.type.tensor_type.shape.dim
    return [dim.dim_value if dim.HasField("dim_value") else None for dim in dims]


def _set_sizes(value: onnx.ValueInfoProto, sizes: Sequence[int]) -> None:
    dims = value.type.tensor_type.shape.dim
    del dims[:]
    for size in sizes:
        dims.add(dim_value=size)


def _order(nodes: Sequence[onnx.NodeProto]) -> list[int]:
    """Places of the nodes, those that wait for nobody first (Kahn), the first of them foremost."""
    maker = {name: place for place, node in enumerate(nodes) for name in node.output if name}
    before = [{maker[name] for name in _read(node) if name in maker} for node in nodes]
    behind: list[list[int]] = [[] for _ in nodes]
    for place, others in enumerate(before):
        for other in others:
            behind[other].append(place)
    waiting = [len(others) for others in before]
    ready = [place for place, count in enumerate(waiting) if not count]
    order: list[int] = []
    while ready:
        place = heapq.heappop(ready)
        order.append(place)
        for reader in behind[place]:
            waiting[reader] -= 1
            if not waiting[reader]:
                heapq.heappush(ready, reader)
    return order if len(order) == len(nodes) else list(range(len(nodes)))


def _read(node: onnx.NodeProto) -> Iterator[str]:
    """All tensors that a node reads, those of its branches too."""
    yield from node.input
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                yield from _read(inner)
            yield from (output.name for output in graph.output)


def _with_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    try:
        inferred = onnx.shape_inference.infer_shapes(model)
    except Exception:  # the C++ inference raises types of its own; the checker says what is wrong
        return model
    known = {value.name: value for value in inferred.graph.output}
    for output in model.graph.output:
        if not output.type.tensor_type.HasField("shape"):
            output.CopyFrom(known[output.name])
    return model
