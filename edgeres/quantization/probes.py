"""Reductions that are added to a graph so that whole activations never leave the engine."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgeres.errors import ModelError
from edgeres.quantization import graph as graphs

#: Values of one tensor that one image gives to the histogram, at most (channels permitting).
SAMPLE = 2048


@dataclass(frozen=True)
class Probe:
    """Names of the outputs that tell about one tensor; ``low`` is None where it is 0."""

    tensor: str
    low: str | None
    high: str
    sample: str
    mean: str | None


def observable(graph: ir.Graph) -> Iterator[ir.Value]:
    """Tensors that some rule set may quantize: read by more than a rectifier, and float."""
    for value in graphs.activations(graph):
        uses = graphs.consumers(value)
        if uses and not graphs.only_rectified(value) and value.dtype == ir.DataType.FLOAT:
            yield value


class Prober:
    """Adds the reductions of one tensor right behind the node that makes it.

    Right behind, because the engine keeps the order: probes at the end of the graph would keep all
    activations alive until then. Poolings rather than Reduce and Slice, because the engine runs
    them in its blocked layout and need not bring the whole tensor into NCHW first.
    """

    def __init__(self, graph: ir.Graph, value: ir.Value) -> None:
        self.graph = graph
        self.value = value
        self.name = graphs.value_name(value)
        self.shape = inner_shape(value)
        self.last = value.producer()

    def add(self) -> Probe:
        """Adds everything that calibration wants to know of the tensor."""
        read_by_layer = any(
            graphs.layer_of(node) for node, index in graphs.consumers(self.value) if index == 0
        )
        if len(self.shape) != 3:
            whole = self._output(ir.node("Identity", [self.value]), "values")
            flat = read_by_layer and len(self.shape) == 1
            return Probe(self.name, whole, whole, whole, whole if flat else None)
        return Probe(
            tensor=self.name,
            low=None if graphs.non_negative(self.value) else self._minimum(),
            high=self._output(ir.node("GlobalMaxPool", [self.value]), "high"),
            sample=self._output(self._sample(), "sample"),
            mean=self._output(ir.node("GlobalAveragePool", [self.value]), "mean")
            if read_by_layer
            else None,
        )

    def _insert(self, node: ir.Node) -> None:
        if self.last is None:
            self.graph.insert_before(self.graph[0], node)
        else:
            self.graph.insert_after(self.last, node)
        self.last = node

    def _output(self, node: ir.Node, suffix: str) -> str:
        self._insert(node)
        out = node.outputs[0]
        out.name = f"{self.name}/observed/{suffix}"
        out.type = ir.TensorType(ir.DataType.FLOAT)
        self.graph.outputs.append(out)
        return out.name

    def _minimum(self) -> str:
        name = "observed/axes"
        axes = self.graph.initializers.get(name)
        if axes is None:
            axes = ir.Value(name=name, const_value=ir.tensor(np.array([2, 3], np.int64), name=name))
            self.graph.register_initializer(axes)
        return self._output(ir.node("ReduceMin", [self.value, axes], {"keepdims": 0}), "low")

    def _sample(self) -> ir.Node:
        """All channels at every n-th row and column; n is odd, to meet every phase of a stride."""
        channels, rows, columns = self.shape
        stride = 1
        while stride < max(rows, columns) and (
            channels * math.ceil(rows / stride) * math.ceil(columns / stride) > SAMPLE
        ):
            stride += 2
        return ir.node("MaxPool", [self.value], {"kernel_shape": [1, 1], "strides": [stride] * 2})


def inner_shape(value: ir.Value) -> tuple[int, ...]:
    """Shape without the batch.

    Raises:
        ModelError: It is not known.
    """
    sizes = [] if value.shape is None else list(value.shape)[1:]
    if value.shape is None or any(not isinstance(size, int) for size in sizes):
        raise ModelError(
            f"the shape of tensor {value.name} is not known.", hint="Export the model again."
        )
    return tuple(int(size) for size in sizes if isinstance(size, int))
