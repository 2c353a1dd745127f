"""Rewrites Q/DQ that TensorRT refuses into Q/DQ that it takes, where not one number changes.

Quantizers for other engines write uint8, zero points and quantized biases. TensorRT takes INT8 with
zero point 0 and float biases. Four things are the same to the last integer, by the definition of
the two operators (ONNX, ``QuantizeLinear``: ``clip(round(x / scale) + zero_point)``):

1. An INT32 bias behind a DQ is the float bias that the DQ computes.
2. Weights behind a DQ keep their values when their zero point is taken off the integers, if these
   still fit into INT8.
3. ``clip(round(x / s) + 128, 0, 255)`` is ``clip(round(x / s), -128, 127)`` and 128. Any other zero
   point goes as well if all that ``x`` can be (a constant, a Clip's or a Sigmoid's output) stays
   inside both limits.
4. One scale in a list is that scale.

What does not fit stays as it is, for the lint to refuse. Each change is told.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from edgeres.backends.tensorrt.graph import (
    DQ,
    Graph,
    Q,
    attribute,
    free_name,
    index_graph,
    taken_names,
)

Bounds = tuple[float, float]
Floats = NDArray[np.floating]
Number = TypeVar("Number", bound=np.generic)

_BYTES: tuple[np.dtype[Any], ...] = (np.dtype(np.uint8), np.dtype(np.int8))
_RANGES: dict[str, Bounds] = {
    "Relu": (0.0, math.inf),
    "Sigmoid": (0.0, 1.0),
    "HardSigmoid": (0.0, 1.0),
    "Softmax": (0.0, 1.0),
    "Tanh": (-1.0, 1.0),
}
_MOVES = frozenset({"Flatten", "Identity", "MaxPool", "GlobalMaxPool", "Reshape", "Transpose"})
_FURTHEST = 16  # operators that are looked through for a bound


@dataclass(frozen=True)
class Repaired:
    """A graph, and what was changed in it: one line each, nothing where it is the one given."""

    graph: Graph
    told: tuple[str, ...]


def repair(graph: Graph, path: Path) -> Repaired:
    """Makes the exact changes of the module's list; ``path`` is for messages.

    The changed graph holds all its constants inside.
    """
    work = _Work(graph)
    told = list(work.changes())
    if not told:
        return Repaired(graph, ())
    return Repaired(index_graph(work.model(), path), tuple(told))


class _Work:
    """A copy of the graph while it is changed."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.nodes = []
        for node in graph.model.graph.node:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            self.nodes.append(copy)
        self.constants = dict(graph.constants)
        self.taken = taken_names(graph.model)
        self.outputs = {value.name for value in graph.model.graph.output}

    def changes(self) -> Iterator[str]:
        """Makes every change that is exact and tells of it."""
        readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in node.input:
                readers.setdefault(name, []).append(node)
        for node in list(self.nodes):
            if node.op_type not in {Q, DQ} or len(node.input) < 2:
                continue
            given = self.graph.constants.get(node.input[1])
            if given is None or not np.issubdtype(given.dtype, np.floating):
                continue
            scale = cast(Floats, given)
            name = node.name or node.output[0]
            stored = self.graph.constants.get(node.input[0]) if node.op_type == DQ else None
            if stored is not None and stored.dtype == np.int32:
                if self._fold(node, stored, scale):
                    yield f"repaired: {name}: the INT32 bias behind it is stored as float"
            elif stored is not None and stored.dtype in _BYTES:
                if self._centre_weights(node, stored):
                    yield f"repaired: {name}: its zero points are taken off the weights"
            elif node.op_type == Q:
                yield from self._activation(node, scale, readers.get(node.output[0], []))

    def _fold(self, node: onnx.NodeProto, stored: NDArray[np.generic], scale: Floats) -> bool:
        zero = self._zero_point(node, np.dtype(np.int32))
        if zero is None or scale.dtype != np.float32 or node.output[0] in self.outputs:
            return False
        centred = stored.astype(np.int64) - _along(node, zero.astype(np.int64), stored.ndim)
        scales = _along(node, scale, stored.ndim)
        self.constants[node.output[0]] = (centred.astype(np.float32) * scales).astype(np.float32)
        self.nodes.remove(node)
        return True

    def _centre_weights(self, node: onnx.NodeProto, stored: NDArray[np.generic]) -> bool:
        zero = self._zero_point(node, stored.dtype)
        if zero is None or (stored.dtype == np.int8 and not zero.any()):
            return False
        centred = stored.astype(np.int16) - _along(node, zero.astype(np.int16), stored.ndim)
        if centred.min(initial=0) < -128 or centred.max(initial=0) > 127:
            return False
        node.input[0] = self._constant(f"{node.output[0]}_centred", centred.astype(np.int8))
        self._set_zero_point(node, np.zeros(zero.shape, np.int8))
        return True

    def _activation(
        self, node: onnx.NodeProto, scale: Floats, readers: list[onnx.NodeProto]
    ) -> Iterator[str]:
        """Rules 3 and 4, for a Q and all the DQs that read it."""
        signed = attribute(node, "output_dtype", 0) == TensorProto.INT8
        zero = self._zero_point(node, _BYTES[signed])
        paired = all(reader.op_type == DQ for reader in readers)
        if zero is None or zero.size != 1 or not paired or node.output[0] in self.outputs:
            return
        name = node.name or node.output[0]
        zeros = [self._zero_point(reader, zero.dtype) for reader in readers]
        alike = all(z is not None and z.size == 1 and z.ravel() == zero.ravel() for z in zeros)
        off_centre = zero.dtype != np.int8 or bool(zero.any())
        if off_centre and scale.size == 1 and alike and self._stays(node, scale, zero):
            for each in (node, *readers):
                self._set_zero_point(each, np.zeros(zero.shape, np.int8))
            yield (
                f"repaired: {name}: {zero.dtype} with zero point {int(zero.ravel()[0])} became "
                "int8 with zero point 0"
            )
        weights = node.input[0] in self.graph.constants
        if scale.shape == (1,) and not weights:
            for each in (node, *readers):
                self._make_scalar(each)
            yield f"repaired: {name}: its scale in a list of one became a plain number"

    def _stays(self, node: onnx.NodeProto, scale: Floats, zero: NDArray[np.generic]) -> bool:
        """Whether nothing that the tensor can be is clipped otherwise without the zero point."""
        step = float(scale.ravel()[0])
        if zero.dtype not in _BYTES or not (math.isfinite(step) and step > 0):
            return False
        limits = np.iinfo(np.int8 if zero.dtype == np.int8 else np.uint8)
        shift = int(zero.ravel()[0])
        old, new = (limits.min - shift, limits.max - shift), (-128, 127)
        low, high = self._bounds(node.input[0], _FURTHEST)
        # A kernel may round a quotient at a half either way, hence the step to spare.
        least, most = math.floor(low / step) if math.isfinite(low) else low, high / step
        most = math.ceil(most) if math.isfinite(most) else most
        return (old[0] == new[0] or least >= max(old[0], new[0])) and (
            old[1] == new[1] or most <= min(old[1], new[1])
        )

    def _bounds(self, tensor: str, left: int) -> Bounds:
        """What the numbers of a tensor can be, as far as the graph tells."""
        constant = self.graph.constants.get(tensor)
        if constant is not None and constant.size:
            return float(constant.min()), float(constant.max())
        node = self.graph.producers.get(tensor)
        if node is None or not left:
            return -math.inf, math.inf
        if node.op_type in _MOVES:
            return self._bounds(node.input[0], left - 1)
        low, high = _RANGES.get(node.op_type, (-math.inf, math.inf))
        if node.op_type == "Clip":
            edges = [self.graph.constants.get(name) for name in node.input[1:3]]
            edges += [None] * (2 - len(edges))
            low = -math.inf if edges[0] is None else float(edges[0])
            high = math.inf if edges[1] is None else float(edges[1])
        if node.op_type in {"Relu", "Clip"}:
            inner = self._bounds(node.input[0], left - 1)
            low, high = max(low, inner[0]), min(high, inner[1])
        return low, high

    def _zero_point(
        self, node: onnx.NodeProto, implied: np.dtype[np.generic]
    ) -> NDArray[np.generic] | None:
        """A node's zero point, of the implied type where it has none; ``None`` if computed."""
        if len(node.input) < 3 or not node.input[2]:
            shape = self.graph.constants[node.input[1]].shape
            return np.zeros(shape, implied)
        return self.graph.constants.get(node.input[2])

    def _set_zero_point(self, node: onnx.NodeProto, zero: NDArray[np.int8]) -> None:
        name = self._constant(f"{node.output[0]}_zero_point", zero)
        del node.input[2:]
        node.input.append(name)
        if node.op_type == Q:
            kept = [item for item in node.attribute if item.name != "output_dtype"]
            del node.attribute[:]
            node.attribute.extend(kept)

    def _make_scalar(self, node: onnx.NodeProto) -> None:
        for index, name in enumerate(node.input[1:], start=1):
            content = self.constants.get(name)
            if content is not None and content.shape == (1,):
                node.input[index] = self._constant(f"{name}_scalar", content.reshape(()))

    def _constant(self, wanted: str, content: NDArray[np.generic]) -> str:
        name = free_name(wanted, self.taken)
        self.constants[name] = content
        return name

    def model(self) -> onnx.ModelProto:
        """The changed model."""
        model = onnx.ModelProto()
        model.CopyFrom(self.graph.model)
        del model.graph.node[:]
        made = {node.output[0] for node in self.nodes if node.op_type == "Constant"}
        model.graph.node.extend(self.nodes)
        used = {name for node in self.nodes for name in node.input} | self.outputs
        del model.graph.initializer[:]
        model.graph.initializer.extend(
            numpy_helper.from_array(np.asarray(content), name)
            for name, content in self.constants.items()
            if name in used and name not in made
        )
        del model.graph.value_info[:]
        return model


def _along(node: onnx.NodeProto, values: NDArray[Number], rank: int) -> NDArray[Number]:
    """Scales or zero points in the shape in which they meet the integers."""
    if values.size == 1:
        return values.reshape(())
    shape = [1] * rank
    shape[attribute(node, "axis", 1)] = values.size
    return values.reshape(shape)
