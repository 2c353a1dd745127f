"""Branches whose way is the same for every image, replaced by that way.

Exporters write ``If`` where a script asks for a shape: ``x.squeeze(1)`` drops a dimension only if
it is one. For images of one size the answer never changes. Rules:

1. A condition that follows from shapes alone, and is the same for batches of one, two and three,
   is known. ONNX Runtime computes it from the file as it is.
2. The nodes of the branch that it chooses stand in place of the ``If``; their tensors get names
   that no other has. Branches inside of branches follow.

Conditions that look at numbers of an image stay; what holds them is refused elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, helper

from edgeres.errors import EdgeResError
from edgeres.graph.session import open_session, run_feeds

_BATCHES = (1, 2, 3)
_DEEPEST = 16
_SIDE = 64
"""Height and width that stand for open ones, where nobody says them."""
_ASKS_FOR_SHAPE = frozenset({"Shape", "Size"})


def without_branches(
    model: onnx.ModelProto, open_size: Sequence[int] | None = None
) -> onnx.ModelProto:
    """The network without the branches that are known; one that has none comes back as it is.

    Args:
        model: Well-formed, without functions of its own.
        open_size: Height and width where the file leaves them open.
    """
    if not any(node.op_type == "If" for node in model.graph.node):
        return model
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for _ in range(_DEEPEST):
        known = _conditions(made, open_size)
        if not known:
            break
        nodes = [new for node in made.graph.node for new in _replaced(node, known, made.graph)]
        del made.graph.node[:]
        made.graph.node.extend(nodes)
    return made


def _conditions(model: onnx.ModelProto, open_size: Sequence[int] | None) -> dict[str, bool]:
    """The values of the conditions that are known, by tensor name."""
    graph = model.graph
    asked = {node.input[0] for node in graph.node if node.op_type == "If"}
    there = {tensor.name for tensor in graph.initializer}
    images = [value for value in graph.input if value.name not in there]
    wanted = sorted(name for name in asked if not _looks_at(name, graph, {i.name for i in images}))
    if not wanted or len(images) != 1:
        return {}
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    given = [name for name in wanted if name in there]
    for number, name in enumerate(given):  # no engine gives an initializer out
        probe.graph.node.append(helper.make_node("Identity", [name], [f"known/{number}"]))
    names = {name: f"known/{given.index(name)}" if name in given else name for name in wanted}
    del probe.graph.output[:]
    probe.graph.output.extend(
        helper.make_tensor_value_info(name, onnx.TensorProto.BOOL, None) for name in names.values()
    )
    answers: list[dict[str, bool]] = []
    try:
        session = open_session(probe.SerializeToString())
        for batch in _BATCHES:
            feeds = {images[0].name: _blank(images[0], batch, open_size)}
            outputs = run_feeds(session, feeds, list(names.values()))
            answers.append({n: bool(np.asarray(outputs[as_n]).all()) for n, as_n in names.items()})
    except EdgeResError:  # a size that does not fit; what is wrong is said where it is asked for
        return {}
    first = answers[0]
    return {name: first[name] for name in wanted if all(a[name] is first[name] for a in answers)}


def _looks_at(name: str, graph: onnx.GraphProto, images: set[str]) -> bool:
    """Whether a tensor depends on the numbers of an image, and not only on its shape."""
    makers = {output: node for node in graph.node for output in node.output}
    waiting, seen = [name], set[str]()
    while waiting:
        tensor = waiting.pop()
        if tensor in images:
            return True
        node = makers.get(tensor)
        if node is None or tensor in seen or node.op_type in _ASKS_FOR_SHAPE:
            continue
        seen.add(tensor)
        waiting.extend(_read(node))
    return False


def _read(node: onnx.NodeProto) -> Iterator[str]:
    yield from node.input
    for graph in _graphs(node):
        for inner in graph.node:
            yield from _read(inner)
        yield from (output.name for output in graph.output)


def _graphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    return [a.g for a in node.attribute if a.type == AttributeProto.GRAPH]


def _blank(
    image: onnx.ValueInfoProto, batch: int, open_size: Sequence[int] | None
) -> NDArray[np.generic]:
    dims = image.type.tensor_type.shape.dim
    sides = iter(open_size or ())
    shape = [dim.dim_value or next(sides, _SIDE) for dim in dims[1:]]
    first = dims[0].dim_value or batch if dims else batch
    dtype = helper.tensor_dtype_to_np_dtype(image.type.tensor_type.elem_type)
    return np.zeros([first, *shape], dtype)


def _replaced(
    node: onnx.NodeProto, known: Mapping[str, bool], graph: onnx.GraphProto
) -> Iterator[onnx.NodeProto]:
    """A node, or the nodes of the branch that it takes."""
    if node.op_type != "If" or node.input[0] not in known:
        yield node
        return
    wanted = "then_branch" if known[node.input[0]] else "else_branch"
    branch = next(a.g for a in node.attribute if a.name == wanted)
    own = [*(t.name for t in branch.initializer), *(n for each in branch.node for n in each.output)]
    names = {name: f"{node.output[0]}/{name}" for name in own if name}
    for tensor in branch.initializer:
        kept = graph.initializer.add()
        kept.CopyFrom(tensor)
        kept.name = names[tensor.name]
    for inner in branch.node:
        _rename(inner, names)
        yield inner
    for value, output in zip(branch.output, node.output, strict=True):
        if output:
            yield helper.make_node("Identity", [names.get(value.name, value.name)], [output])


def _rename(node: onnx.NodeProto, names: Mapping[str, str]) -> None:
    """Gives tensors their new names in place, in branches inside too."""
    node.input[:] = [names.get(name, name) for name in node.input]
    node.output[:] = [names.get(name, name) for name in node.output]
    for graph in _graphs(node):
        for inner in graph.node:
            _rename(inner, names)
        for value in graph.output:
            value.name = names.get(value.name, value.name)
