"""What INT8 activations alone do to a network's output, for ranges that change from run to run.

The FP32 model gets Q/DQ wherever the strictest rule set would put it, with scales and zero points
as inputs of the graph: one session tries any number of ranges. Weights stay float; their error is
the same whatever the ranges are.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeres.backends.base import QdqRules
from edgeres.calibrators.base import ChosenRange
from edgeres.graph import layers as graphs
from edgeres.graph.session import open_session, run_feeds
from edgeres.quantization.forward import chunks, detach_weights, fixed_batch, infer_shapes
from edgeres.quantization.placement import place
from edgeres.quantization.scales import activation_params

#: Every tensor that some engine keeps in INT8, asymmetric as on CPUs.
_EVERYWHERE = QdqRules(
    name="trial",
    activation_dtype="uint8",
    activation_symmetric=False,
    ops=frozenset({"Conv", "Gemm", "MatMul", "Add", "MaxPool", "AveragePool", "GlobalAveragePool"}),
    residual="both",
    quantize_outputs=True,
    products="activations",
)
#: Of squared errors and energies: what is exact has no logarithm.
_LEAST = 1e-30


class ActivationTrial:
    """A network whose activations are INT8 with the ranges of each run.

    Attributes:
        tensors: Names of the tensors whose range is asked for, in topological order.
    """

    def __init__(
        self,
        onnx: Path,
        images: NDArray[np.float32],
        wanted: Mapping[str, NDArray[np.float32]],
        *,
        threads: int | None = None,
    ) -> None:
        """Prepares the graph.

        Args:
            onnx: FP32 model in normal form.
            images: ``(N, C, H, W) float32`` that are run.
            wanted: ``(N, ...) float32`` that the float network gives for them, by tensor name.
            threads: Of ONNX Runtime; ``None`` leaves it to choose.

        Raises:
            ModelError: The model cannot be quantized or ONNX Runtime rejects it.
        """
        self._images = images
        self._wanted = wanted
        skeleton, weights = self._with_open_pairs(onnx)
        gc.collect()  # a graph is full of cycles; it holds weights that the engine copies now
        self._session = open_session(
            skeleton, threads=threads, fuse_quantized=False, weights=weights
        )

    def _with_open_pairs(self, onnx: Path) -> tuple[bytes, dict[str, NDArray[np.generic]]]:
        """The serialized model with Q/DQ whose scales are inputs, and its weights."""
        model = graphs.load_model(onnx)
        infer_shapes(model)
        self._batch = fixed_batch(model)
        self._input = graphs.value_name(graphs.inputs(model.graph)[0])
        values = _values_by_name(model.graph)
        self._sources = _insert_open_pairs(model.graph, values)
        self.tensors = tuple(dict.fromkeys(self._sources.values()))
        for name in self._wanted:
            if not values[name].is_graph_output():
                model.graph.outputs.append(values[name])
        weights = detach_weights(model)
        return ir.to_proto(model).SerializeToString(), weights

    def errors(self, ranges: Mapping[str, ChosenRange], images: slice) -> NDArray[np.float64]:
        """Squared error over energy of each image and each tensor that was wanted, in dB.

        Args:
            ranges: Of all :attr:`tensors`.
            images: Which of the images are run.

        Returns:
            ``(N, T) float64``; less is better.

        Raises:
            StageError: ONNX Runtime failed.
        """
        feeds: dict[str, NDArray[np.generic]] = {}
        for tensor, source in self._sources.items():
            value_range = ranges[source]
            params = activation_params(value_range.low, value_range.high, "uint8", symmetric=False)
            feeds[f"{tensor}/scale"] = np.array(params.scale, np.float32)
            feeds[f"{tensor}/zero"] = np.array(params.zero_point, np.uint8)
        noise: dict[str, list[NDArray[np.float64]]] = {name: [] for name in self._wanted}
        done = images.start or 0
        for batch in chunks(iter([self._images[images]]), self._batch):
            outputs = run_feeds(self._session, feeds | {self._input: batch}, list(self._wanted))
            for name, whole in self._wanted.items():
                noise[name].append(_squares(outputs[name] - whole[done : done + len(batch)]))
            done += len(batch)
        decibels = [
            10 * np.log10(np.maximum(np.concatenate(noise[name]), _LEAST))
            - 10 * np.log10(np.maximum(_squares(whole[images]), _LEAST))
            for name, whole in self._wanted.items()
        ]
        return np.stack(decibels, axis=1)


def _squares(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """``(N,)`` sum of squares of each row."""
    rows = values.reshape(len(values), -1).astype(np.float64)
    return np.asarray(np.einsum("ij,ij->i", rows, rows))


def _values_by_name(graph: ir.Graph) -> dict[str, ir.Value]:
    outputs = (output for node in graph for output in node.outputs)
    return {graphs.value_name(value): value for value in (*graph.inputs, *outputs)}


def _insert_open_pairs(graph: ir.Graph, values: Mapping[str, ir.Value]) -> dict[str, str]:
    """Adds Q/DQ with scales from outside; gives each tensor and the one whose range it has."""
    placement = place(graph, _EVERYWHERE)
    for name, readers in placement.readers.items():
        value = values[name]
        scale = _scalar_input(graph, f"{name}/scale", ir.DataType.FLOAT)
        zero = _scalar_input(graph, f"{name}/zero", ir.DataType.UINT8)
        quantize = ir.node("QuantizeLinear", [value, scale, zero], name=f"{name}/quantize")
        dequantize = ir.node(
            "DequantizeLinear", [quantize.outputs[0], scale, zero], name=f"{name}/dequantize"
        )
        quantize.outputs[0].name, dequantize.outputs[0].name = f"{name}/int8", f"{name}/float"
        producer = value.producer()
        if producer is None:
            graph.insert_before(graph[0], [quantize, dequantize])
        else:
            graph.insert_after(producer, [quantize, dequantize])
        for node, index in readers:
            node.replace_input_with(index, dequantize.outputs[0])
    return dict(placement.source)


def _scalar_input(graph: ir.Graph, name: str, dtype: ir.DataType) -> ir.Value:
    value = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape([]))
    graph.inputs.append(value)
    return value
