"""The FP32 forward pass of calibration, which shows every activation that may be quantized.

The engine writes whole activations into buffers that are used again for the next images, so memory
is that of one small batch. What calibration wants to know of them is cheap to compute there.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeres.errors import ModelError
from edgeres.quantization import graph as graphs
from edgeres.quantization.forward import (
    check_images,
    detach_weights,
    infer_shapes,
    open_session,
    run_bound,
)


class ObservedModel:
    """An FP32 model in ONNX Runtime whose activations can be looked at.

    Attributes:
        image: Name of the image input.
        image_shape: Shape of one image.
        shapes: Tensor name to shape without the batch, in topological order.
        read_by_layer: Tensors that a layer multiplies its weights with.
        rectified: Tensors that the graph alone says have no negative values.
        output: Name of the network's output.
        features: Name of the tensor that the last layer reads.
    """

    def __init__(self, onnx: Path, *, threads: int | None = None) -> None:
        """Prepares the graph and the session.

        Raises:
            ModelError: The model cannot be quantized or ONNX Runtime rejects it.
            BackendMissingError: ONNX Runtime is not installed.
        """
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.read_by_layer: set[str] = set()
        self.rectified: set[str] = set()
        self._buffers: dict[str, NDArray[np.float32]] = {}
        skeleton, weights = self._showing_activations(onnx)
        gc.collect()  # a graph is full of cycles; it holds weights that the engine copies now
        self._session = open_session(skeleton, threads=threads, weights=weights)

    def _showing_activations(self, onnx: Path) -> tuple[bytes, dict[str, NDArray[np.generic]]]:
        """The serialized model with all of its observable tensors as outputs, and its weights."""
        model = graphs.load_model(onnx)
        self.image = graphs.value_name(graphs.inputs(model.graph)[0])
        self.image_shape = _image_shape(model, onnx)
        infer_shapes(model)
        output = model.graph.outputs[0]
        self.output = graphs.value_name(output)
        self._output_shape = inner_shape(output)
        for value in list(observable(model.graph)):
            name = graphs.value_name(value)
            _check_batch(value)
            self.shapes[name] = inner_shape(value)
            if any(graphs.layer_of(node) and not at for node, at in graphs.consumers(value)):
                self.read_by_layer.add(name)
            if graphs.non_negative(value):
                self.rectified.add(name)
            if value.producer() is not None and not value.is_graph_output():
                model.graph.outputs.append(value)
        self.features = last_features(model.graph)
        weights = detach_weights(model)
        return ir.to_proto(model).SerializeToString(), weights

    def run(
        self, images: NDArray[np.float32]
    ) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.float32]]:
        """Runs some images.

        Args:
            images: ``(N, C, H, W) float32``.

        Returns:
            Activations ``(N, ...) float32`` by tensor name, which the next run overwrites, and the
            logits ``(N, K) float32``.

        Raises:
            DataError: The shape does not fit the model.
            StageError: ONNX Runtime failed.
        """
        check_images(self._session, images)
        images = np.ascontiguousarray(images)
        wanted = {name: shape for name, shape in self.shapes.items() if name != self.image}
        outputs = {
            name: self._buffer(name, len(images), shape)
            for name, shape in {**wanted, self.output: self._output_shape}.items()
        }
        run_bound(self._session, images, outputs)
        logits = outputs[self.output]
        seen = {name: outputs.get(name, images) for name in self.shapes}
        return seen, logits

    def _buffer(self, name: str, count: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Memory of one output for some images, kept from run to run."""
        kept = self._buffers.get(name)
        if kept is None or len(kept) < count:
            kept = self._buffers[name] = np.empty((count, *shape), np.float32)
        return kept[:count]


def observable(graph: ir.Graph) -> Iterator[ir.Value]:
    """Tensors that some rule set may quantize: read by more than a rectifier, and float."""
    for value in graphs.activations(graph):
        uses = graphs.consumers(value)
        if uses and not graphs.only_rectified(value) and value.dtype == ir.DataType.FLOAT:
            yield value


def last_features(graph: ir.Graph) -> str:
    """Name of the tensor that the last layer of a network reads; that of the image without one."""
    read = [node.inputs[0] for node in graph if graphs.layer_of(node)]
    value = read[-1] if read else graphs.inputs(graph)[0]
    assert value is not None
    return graphs.value_name(value)


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


def _check_batch(value: ir.Value) -> None:
    if value.shape is not None and len(value.shape) and isinstance(value.shape[0], int):
        raise ModelError(
            f"tensor {value.name} has shape {value.shape} for any number of images: something is "
            "computed over the batch, so the answer to an image depends on the others.",
            hint="Export the network in evaluation mode with a free batch.",
        )


def _image_shape(model: ir.Model, source: Path) -> tuple[int, ...]:
    shape = graphs.inputs(model.graph)[0].shape
    if shape is None or any(not isinstance(size, int) for size in list(shape)[1:]):
        raise ModelError(
            f"{source}: the image input needs a fixed shape behind the batch, got {shape}.",
            hint="Export with a fixed image size; only the batch may be dynamic.",
        )
    if isinstance(shape[0], int):
        raise ModelError(
            f"{source}: the batch is fixed at {shape[0]}.",
            hint="Export with a dynamic batch.",
        )
    return tuple(int(size) for size in list(shape)[1:] if isinstance(size, int))
