"""Small changes to a file, as wrong exporters, other tools and hands make them.

Some leave the network as it was, some make another one of it, some break the file. What is right
is never known beforehand: ONNX Runtime says it of the changed file.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import AttributeProto, helper, numpy_helper

Random = np.random.Generator

_UNARY = ("Relu", "Sigmoid", "HardSwish", "Tanh", "Abs", "Neg", "Identity", "Softplus", "LeakyRelu")
_BINARY = ("Add", "Mul", "Sub", "Max", "Min", "Div")
_FACTORS = (0.0, -1.0, 1e-6, 1e3, float("nan"))


def mutate(model: onnx.ModelProto, random: Random) -> str:
    """Changes a model in place, once or twice.

    Returns:
        What was done, in words.
    """
    done: list[str] = []
    for _ in range(int(random.integers(1, 3))):
        before = model.SerializeToString()
        while model.SerializeToString() == before:  # not every change finds its place
            kinds = BREAKING if random.random() < 0.15 else MUTATIONS
            name = str(random.choice(list(kinds)))
            kinds[name](model.graph, random)
        done.append(name)
    if random.random() < 0.15:
        model.opset_import[0].version = int(random.integers(7, 24))
        done.append(f"opset {model.opset_import[0].version}")
    return ", ".join(done)


def _node(graph: onnx.GraphProto, random: Random) -> onnx.NodeProto:
    node: onnx.NodeProto = graph.node[int(random.integers(len(graph.node)))]
    return node


def _whole_number(graph: onnx.GraphProto, random: Random) -> None:
    """An attribute of whole numbers is off by one or two."""
    node = _node(graph, random)
    numbers = [a for a in node.attribute if a.type in (AttributeProto.INT, AttributeProto.INTS)]
    if not numbers:
        return
    chosen = numbers[int(random.integers(len(numbers)))]
    by = int(random.choice([-1, 1, 2]))
    if chosen.type == AttributeProto.INT:
        chosen.i += by
    elif chosen.ints:
        chosen.ints[int(random.integers(len(chosen.ints)))] += by


def _no_attributes(graph: onnx.GraphProto, random: Random) -> None:
    node = _node(graph, random)
    if node.attribute:
        del node.attribute[int(random.integers(len(node.attribute)))]


def _constant(graph: onnx.GraphProto, random: Random) -> None:
    """Some numbers of a constant become others."""
    if not graph.initializer:
        return
    tensor = graph.initializer[int(random.integers(len(graph.initializer)))]
    array = numpy_helper.to_array(tensor).copy()
    some = random.random(array.shape) < random.choice([0.1, 1.0])
    if array.dtype.kind == "f":
        array = np.where(some, array * np.float32(random.choice(_FACTORS)), array)
    else:
        array = np.where(some, array + random.integers(-1, 2), array)
    tensor.CopyFrom(numpy_helper.from_array(array.astype(array.dtype), tensor.name))


def _shape_of_constant(graph: onnx.GraphProto, random: Random) -> None:
    if not graph.initializer:
        return
    tensor = graph.initializer[int(random.integers(len(graph.initializer)))]
    if tensor.dims:
        tensor.dims[int(random.integers(len(tensor.dims)))] += int(random.choice([-1, 1]))


def _other_operator(graph: onnx.GraphProto, random: Random) -> None:
    for family in (_UNARY, _BINARY):
        there = [node for node in graph.node if node.op_type in family]
        if there and random.random() < 0.7:
            node = there[int(random.integers(len(there)))]
            node.op_type = str(random.choice(family))
            return


def _rewired(graph: onnx.GraphProto, random: Random) -> None:
    """An input comes from another tensor before it."""
    place = int(random.integers(len(graph.node)))
    node = graph.node[place]
    before = [graph.input[0].name, *(name for each in graph.node[:place] for name in each.output)]
    if node.input:
        node.input[int(random.integers(len(node.input)))] = str(random.choice(before))


def _no_input(graph: onnx.GraphProto, random: Random) -> None:
    node = _node(graph, random)
    if len(node.input) > 1:
        del node.input[-1]


def _in_between(graph: onnx.GraphProto, random: Random) -> None:
    """Nodes that change nothing stand in front of an input."""
    place = int(random.integers(len(graph.node)))
    node = graph.node[place]
    name = node.input[0]
    added = f"between{len(graph.node)}"
    kind = str(random.choice(["Identity", "Dropout", "double", "negative", "flat"]))
    if kind in ("Identity", "Dropout"):
        made = [helper.make_node(kind, [name], [added])]
    elif kind == "double":
        made = [helper.make_node("Cast", [name], [f"{added}a"], to=11),
                helper.make_node("Cast", [f"{added}a"], [added], to=1)]  # fmt: skip
    elif kind == "negative":
        made = [helper.make_node("Neg", [name], [f"{added}a"]),
                helper.make_node("Neg", [f"{added}a"], [added])]  # fmt: skip
    else:
        made = [helper.make_node("Shape", [name], [f"{added}s"]),
                helper.make_node("Flatten", [name], [f"{added}a"]),
                helper.make_node("Reshape", [f"{added}a", f"{added}s"], [added])]  # fmt: skip
    node.input[0] = added
    for each in reversed(made):
        graph.node.insert(place, each)


def _constant_node(graph: onnx.GraphProto, random: Random) -> None:
    """A weight stands in a node, or is an input with a default."""
    if not graph.initializer:
        return
    place = int(random.integers(len(graph.initializer)))
    tensor = graph.initializer[place]
    if random.random() < 0.5:
        graph.input.append(
            helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        )
        return
    graph.node.insert(0, helper.make_node("Constant", [], [tensor.name], value=tensor))
    del graph.initializer[place]


def _names(graph: onnx.GraphProto, random: Random) -> None:
    """Node names that are odd, empty or there twice."""
    for node in graph.node:
        node.name = str(random.choice(["", "a", "a/b:0", "ä b", "x" * 300]))


def _declared(graph: onnx.GraphProto, random: Random) -> None:
    """A dimension is declared as another one."""
    value = [*graph.input, *graph.output][int(random.integers(2))]
    dims = value.type.tensor_type.shape.dim
    if dims:
        dim = dims[int(random.integers(len(dims)))]
        dim.Clear()
        choice = int(random.integers(3))
        if choice == 1:
            dim.dim_param = "unknown"
        elif choice == 2:
            dim.dim_value = int(random.integers(0, 20))


def _second_output(graph: onnx.GraphProto, random: Random) -> None:
    name = _node(graph, random).output[0]
    if name != graph.output[0].name:
        graph.output.append(helper.make_tensor_value_info(name, 1, None))


def _order(graph: onnx.GraphProto, random: Random) -> None:
    """Two nodes change places."""
    if len(graph.node) > 2:
        place = int(random.integers(len(graph.node) - 1))
        first = onnx.NodeProto()
        first.CopyFrom(graph.node[place])
        graph.node[place].CopyFrom(graph.node[place + 1])
        graph.node[place + 1].CopyFrom(first)


def _cut(graph: onnx.GraphProto, random: Random) -> None:
    """A weight is shorter than its shape says."""
    raw = [tensor for tensor in graph.initializer if len(tensor.raw_data) > 4]
    if raw:
        tensor = raw[int(random.integers(len(raw)))]
        tensor.raw_data = tensor.raw_data[:-4]


Mutation = Callable[[onnx.GraphProto, Random], None]
MUTATIONS: dict[str, Mutation] = {
    "a whole number": _whole_number,
    "a constant": _constant,
    "another operator": _other_operator,
    "rewired": _rewired,
    "nodes in between": _in_between,
    "a constant elsewhere": _constant_node,
    "names": _names,
    "a declared size": _declared,
    "a second output": _second_output,
    "order": _order,
}
#: What hardly leaves a network.
BREAKING: dict[str, Mutation] = {
    "an attribute less": _no_attributes,
    "the shape of a constant": _shape_of_constant,
    "an input less": _no_input,
    "a cut weight": _cut,
}
