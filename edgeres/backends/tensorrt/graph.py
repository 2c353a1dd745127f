"""An ONNX file as the TensorRT backend looks at it: constants by name, producers, consumers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edgeres.errors import ModelError
from edgeres.graph.summary import read_proto

Q, DQ = "QuantizeLinear", "DequantizeLinear"


@dataclass(frozen=True)
class Graph:
    """A model and what is looked up in it again and again.

    Attributes:
        model: The ONNX model.
        constants: Initializers and the values of Constant nodes, by tensor name.
        producers: The node that makes a tensor.
        consumers: The nodes that read a tensor, each with the index of the input.
    """

    model: onnx.ModelProto
    constants: Mapping[str, NDArray[np.generic]]
    producers: Mapping[str, onnx.NodeProto]
    consumers: Mapping[str, Sequence[tuple[onnx.NodeProto, int]]]

    @property
    def op_types(self) -> dict[str, str]:
        """ONNX op type by node name."""
        return {node.name: node.op_type for node in self.model.graph.node if node.name}

    @property
    def data_files(self) -> frozenset[str]:
        """Names of the files beside the model that hold its external data."""
        graph = self.model.graph
        in_nodes = (attribute.t for node in graph.node for attribute in node.attribute)
        return frozenset(
            item.value
            for tensor in (*graph.initializer, *in_nodes)
            for item in tensor.external_data
            if item.key == "location"
        )

    @property
    def is_quantized(self) -> bool:
        """True if the file has Q/DQ at all."""
        return any(node.op_type in {Q, DQ} for node in self.model.graph.node)


def read_graph(path: Path) -> Graph:
    """Reads an ONNX file, following external data only to plain files beside it.

    Raises:
        ModelError: No such file, not ONNX, or external data that lies elsewhere.
    """
    return index_graph(read_proto(path), path)


def index_graph(model: onnx.ModelProto, path: Path) -> Graph:
    """Indexes a model; ``path`` is where it lies, for messages and external data.

    Raises:
        ModelError: External data that lies elsewhere or cannot be read.
    """
    constants: dict[str, NDArray[np.generic]] = {}
    for tensor in model.graph.initializer:
        constants[tensor.name] = _array(tensor, path)
    producers: dict[str, onnx.NodeProto] = {}
    consumers: defaultdict[str, list[tuple[onnx.NodeProto, int]]] = defaultdict(list)
    for node in model.graph.node:
        for name in node.output:
            producers[name] = node
        for index, name in enumerate(node.input):
            consumers[name].append((node, index))
        if node.op_type == "Constant":
            value = _constant(node, path)
            if value is not None:
                constants[node.output[0]] = value
    return Graph(model, constants, producers, consumers)


def _constant(node: onnx.NodeProto, path: Path) -> NDArray[np.generic] | None:
    """The number that a Constant holds in any of its attributes; ``None`` for text or sparse."""
    item = next(iter(node.attribute), None)
    if item is None:
        return None
    if item.name == "value":
        return _array(item.t, path)
    numbers: dict[str, NDArray[np.generic]] = {
        "value_float": np.asarray(item.f, np.float32),
        "value_floats": np.asarray(item.floats, np.float32),
        "value_int": np.asarray(item.i, np.int64),
        "value_ints": np.asarray(item.ints, np.int64),
    }
    return numbers.get(item.name)


def _array(tensor: onnx.TensorProto, path: Path) -> NDArray[np.generic]:
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        location = next((item.value for item in tensor.external_data if item.key == "location"), "")
        # TensorRT's parser opens whatever path stands here, so it must be a plain name.
        target = path.parent / location
        if PurePosixPath(location).name != location or "\\" in location or target.is_symlink():
            raise ModelError(
                f"{path}: external data of {tensor.name!r} lies at {location!r}, "
                "not in a plain file beside the model.",
                hint="Save the model with its weights inside, or beside it.",
            )
    try:
        return numpy_helper.to_array(tensor, base_dir=str(path.parent))
    except Exception as error:  # short data, unknown types, missing files: all of them end here
        raise ModelError(
            f"{path}: tensor {tensor.name!r} cannot be read ({error}).",
            hint="Export the model again.",
        ) from error


def taken_names(model: onnx.ModelProto) -> set[str]:
    """Names of all nodes and tensors of a model, for :func:`free_name`."""
    graph = model.graph
    names = {item.name for item in (*graph.input, *graph.output, *graph.initializer, *graph.node)}
    return names.union(*((*node.input, *node.output) for node in graph.node))


def free_name(wanted: str, taken: set[str]) -> str:
    """The wanted name, with a number behind it where it is taken; the result is taken then."""
    name, number = wanted, 1
    while name in taken:
        number += 1
        name = f"{wanted}_{number}"
    taken.add(name)
    return name


def nested_node(model: onnx.ModelProto) -> str | None:
    """Name of the first node with a graph inside (If, Loop, Scan), or of a local function."""
    for node in model.graph.node:
        if any(item.HasField("g") or item.graphs for item in node.attribute):
            return str(node.name or node.op_type)
    return next((str(function.name) for function in model.functions), None)


def attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    """An integer attribute of a node."""
    return next((int(item.i) for item in node.attribute if item.name == name), default)
