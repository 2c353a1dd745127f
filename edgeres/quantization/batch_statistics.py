"""What calibration wants to know of one tensor for a few images: extremes, moments, a sample.

The engine itself computes it for large tensors, where they lie in its caches: nodes are added to
the graph, and whole activations never leave it. Small tensors come out whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeres.graph.layers import value_name
from edgeres.quantization.places import Places

Arrays = Mapping[str, NDArray[np.float32]]
#: Computes the statistics from what the engine gave and where the images are sampled.
Reader = Callable[[Arrays, Places], "BatchStatistics"]

#: The axes of ReduceMax and ReduceMin are an input from this opset on, an attribute before.
_AXES_ARE_AN_INPUT = 18
_LARGEST = np.finfo(np.float32).max


@dataclass(frozen=True)
class BatchStatistics:
    """Of one tensor for some images.

    Attributes:
        low: Smallest value; 0 where the graph says that none is negative. Infinite where a value
            is; NaN where one is and moments are asked for.
        high: Largest value, likewise.
        mean: ``(N, C) float32`` mean of each channel of each image; C is 0 where not asked for.
        square: ``(N, C) float32`` mean square, likewise.
        samples: ``(N, S) float32`` values at the images' places, or all of them.
    """

    low: float
    high: float
    mean: NDArray[np.float32]
    square: NDArray[np.float32]
    samples: NDArray[np.float32]


def of_values(
    values: NDArray[np.float32], places: Places, *, moments: bool, rectified: bool
) -> BatchStatistics:
    """Statistics of a whole tensor.

    Args:
        values: ``(N, ...) float32``.
        places: Of the images.
        moments: Whether those of the channels are wanted.
        rectified: Whether the graph says that no value is negative.
    """
    count = len(values)
    flat = values.reshape(count, -1)
    channels = values.shape[1] if moments and values.ndim > 1 else 0
    mean = square = np.zeros((count, 0), np.float32)
    if channels:
        rows = values.reshape(count, channels, -1)
        with np.errstate(over="ignore", invalid="ignore"):  # told below
            mean = _finite(rows.sum(axis=2) / np.float32(rows.shape[2]))
            square = _finite(np.vecdot(rows, rows) / np.float32(rows.shape[2]))
    if flat.shape[1] > places.SAMPLE:
        where = places.of(flat.shape[1])
        samples = np.take_along_axis(flat, where, axis=1)
    else:
        samples = flat
    # NumPy hands NaN on; Python's own min and max would not.
    low = 0.0 if rectified else float(flat.min())
    return BatchStatistics(low, float(flat.max()), mean, square, samples)


def add_to_graph(
    graph: ir.Graph, value: ir.Value, shape: tuple[int, ...], *, moments: bool, rectified: bool
) -> Reader:
    """Lets a graph compute the statistics of one tensor, in place.

    Args:
        graph: Gets nodes, outputs and, for large tensors, an input for the places.
        value: The tensor, with the batch first.
        shape: Without the batch.
        moments: Whether those of the channels are wanted.
        rectified: Whether the graph says that no value is negative.

    Returns:
        What reads them from the outputs.
    """
    name, size = value_name(value), math.prod(shape)
    if size <= Places.SAMPLE or len(shape) < 2:
        if value.producer() is not None and not value.is_graph_output():
            graph.outputs.append(value)
        return lambda outputs, places: of_values(
            outputs[name], places, moments=moments, rectified=rectified
        )
    nodes = _Nodes(graph, value, shape)
    high = nodes.extreme("ReduceMax")
    low = "" if rectified else nodes.extreme("ReduceMin")
    means = [nodes.mean(), nodes.mean(squared=True)] if moments else []
    samples = nodes.sampled(size)

    def read(outputs: Arrays, places: Places) -> BatchStatistics:
        mean = square = np.zeros((len(outputs[high]), 0), np.float32)
        broken = 0.0
        if means:
            mean, square = (_finite(outputs[name].reshape(-1, shape[0])) for name in means)
            # What finds extremes may pass NaN over; a mean never does.
            broken = math.nan if np.isnan(mean).any() else 0.0
        return BatchStatistics(
            low=broken + (float(outputs[low].min()) if low else 0.0),
            high=broken + float(outputs[high].max()),
            mean=mean,
            square=square,
            samples=outputs[samples],
        )

    return read


def places_input(size: int) -> str:
    """Name of the graph's input for the places in tensors of some size."""
    return f"places/{size}"


def _finite(means: NDArray[np.float32]) -> NDArray[np.float32]:
    """What overflowed (squares of values above 1e19) is the largest."""
    return np.clip(means, -_LARGEST, _LARGEST)


class _Nodes:
    """Adds nodes that read one tensor; each gives the name of its output."""

    def __init__(self, graph: ir.Graph, value: ir.Value, shape: tuple[int, ...]) -> None:
        assert value.shape is not None
        self._graph, self._value, self._rank = graph, value, len(shape) + 1
        self._batch, self._channels = value.shape[0], shape[0]

    def extreme(self, op: str) -> str:
        """``(N, C)``: over all axes behind the channels."""
        axes = list(range(2, self._rank))
        if self._graph.opset_imports[""] < _AXES_ARE_AN_INPUT:
            node = ir.node(op, [self._value], attributes={"keepdims": 0, "axes": axes})
        else:
            axes_input = self._constant("places/axes" + "-".join(map(str, axes)), axes)
            node = ir.node(op, [self._value, axes_input], attributes={"keepdims": 0})
        return self._output(node, op, [self._channels])

    def mean(self, *, squared: bool = False) -> str:
        """``(N, C, 1, ...)``: by a pool; what ReduceSum gives depends on the number of images."""
        source, name = self._value, "mean"
        if squared:
            product = ir.node("Mul", [source, source])
            source, name = product.outputs[0], "square"
            source.name = f"{self._value.name}/observed/product"
            self._graph.append(product)
        ones = [1] * (self._rank - 2)
        return self._output(ir.node("GlobalAveragePool", [source]), name, [self._channels, *ones])

    def sampled(self, size: int) -> str:
        """``(N, SAMPLE)``: the values at places that are an input."""
        flat = ir.node("Reshape", [self._value, self._constant("places/flat", [0, -1])])
        flat.outputs[0].name = f"{self._value.name}/observed/flat"
        self._graph.append(flat)
        shape = ir.Shape([self._batch, Places.SAMPLE])
        where = next((v for v in self._graph.inputs if v.name == places_input(size)), None)
        if where is None:
            kind = ir.TensorType(ir.DataType.INT64)
            where = ir.Value(name=places_input(size), type=kind, shape=shape)
            self._graph.inputs.append(where)
        node = ir.node("GatherElements", [flat.outputs[0], where], attributes={"axis": 1})
        return self._output(node, "samples", [Places.SAMPLE])

    def _constant(self, name: str, numbers: list[int]) -> ir.Value:
        initializer = self._graph.initializers.get(name)
        if initializer is not None:
            return initializer
        tensor = ir.tensor(np.array(numbers, np.int64), name=name)
        value = ir.Value(name=name, const_value=tensor, type=ir.TensorType(ir.DataType.INT64))
        value.shape = ir.Shape([len(numbers)])
        self._graph.register_initializer(value)
        return value

    def _output(self, node: ir.Node, name: str, shape: list[int]) -> str:
        output = node.outputs[0]
        output.name = f"{self._value.name}/observed/{name}"
        output.type = ir.TensorType(ir.DataType.FLOAT)
        output.shape = ir.Shape([self._batch, *shape])
        self._graph.append(node)
        self._graph.outputs.append(output)
        return output.name
