"""The FP32 forward pass of calibration, which shows every activation that may be quantized.

The engine hands out what calibration wants to know of each, not the activations themselves. While
what came of one batch is counted in Python, the next ones run beside it.
"""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeres.errors import ModelError
from edgeres.graph import layers as graphs
from edgeres.graph.session import check_images, open_session, run_feeds
from edgeres.graph.shapes import rows_of_images
from edgeres.quantization.batch_statistics import (
    BatchStatistics,
    Reader,
    add_to_graph,
    places_input,
)
from edgeres.quantization.by_image import as_one_image, by_image
from edgeres.quantization.forward import detach_weights, fixed_batch, infer_shapes
from edgeres.quantization.places import Places
from edgeres.system.container_limits import usable_threads

#: Batches in the engine at once: two keep two cores busier than two threads on one batch.
_AT_ONCE = 2


@dataclass(frozen=True)
class Observation:
    """What a network made of some images.

    Attributes:
        images: ``(N, C, H, W) float32``.
        places: Where they were sampled.
        tensors: Statistics by tensor name.
        output: ``(N, K) float32`` logits.
        features: ``(N, ...) float32`` of the tensor that the last layer reads.
    """

    images: NDArray[np.float32]
    places: Places
    tensors: dict[str, BatchStatistics]
    output: NDArray[np.float32]
    features: NDArray[np.float32]


class ObservedModel:
    """An FP32 model in ONNX Runtime whose activations can be looked at.

    Attributes:
        image: Name of the image input.
        image_shape: Shape of one image.
        batch: 1 where the network takes single images only, else ``None``.
        shapes: Tensor name to shape without the batch, in topological order.
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
        self._readers: dict[str, Reader] = {}
        skeleton, weights = self._with_statistics(onnx)
        gc.collect()  # a graph is full of cycles; it holds weights that the engine copies now
        threads = threads or usable_threads()
        self._at_once = min(threads, _AT_ONCE)
        # Each run brings the thread that it is called in.
        own = threads - self._at_once + 1
        self._session = open_session(skeleton, threads=own, weights=weights)
        self._outputs = [output.name for output in self._session.get_outputs()]
        sizes = {int(np.prod(shape)) for shape in self.shapes.values()}
        input_names = {value.name for value in self._session.get_inputs()}
        self._sampled = [size for size in sorted(sizes) if places_input(size) in input_names]

    def _with_statistics(self, onnx: Path) -> tuple[bytes, dict[str, NDArray[np.generic]]]:
        """The serialized model that computes the statistics too, and its weights."""
        model = graphs.load_model(onnx)
        self.image = graphs.value_name(graphs.inputs(model.graph)[0])
        self.image_shape = _image_shape(model, onnx)
        self.batch = fixed_batch(model)
        infer_shapes(model)
        output = model.graph.outputs[0]
        self.output = graphs.value_name(output)
        self.features = last_features(model.graph)
        for value in list(observable(model.graph)):
            name = graphs.value_name(value)
            image_value = value
            if self.batch is None:
                image_value = by_image(model.graph, value)
            elif value.shape is not None and (not len(value.shape) or value.shape[0] != 1):
                image_value = as_one_image(model.graph, value)
            self.shapes[name] = inner_shape(image_value)
            read_by_layer = any(
                graphs.layer_of(node) and not at for node, at in graphs.consumers(value)
            )
            if name == self.features and value.producer() and not value.is_graph_output():
                model.graph.outputs.append(value)
            self._readers[name] = add_to_graph(
                model.graph,
                image_value,
                self.shapes[name],
                moments=read_by_layer,
                rectified=graphs.non_negative(value),
            )
        weights = detach_weights(model)
        return ir.to_proto(model).SerializeToString(), weights

    def run(self, batches: Iterable[NDArray[np.float32]]) -> Iterator[Observation]:
        """Runs images, batch by batch.

        Args:
            batches: Each ``(N, C, H, W) float32``.

        Yields:
            What came of each batch, in order.

        Raises:
            DataError: The shape does not fit the model.
            StageError: ONNX Runtime failed.
        """
        running: deque[Future[Observation]] = deque()
        with ThreadPoolExecutor(self._at_once) as pool:
            for images in batches:
                running.append(pool.submit(self._run, images))
                if len(running) > self._at_once:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()

    def _run(self, images: NDArray[np.float32]) -> Observation:
        check_images(self._session, images)
        places = Places(images)
        feeds: dict[str, NDArray[np.generic]] = {self.image: np.ascontiguousarray(images)}
        feeds |= {places_input(size): places.of(size) for size in self._sampled}
        tensors = run_feeds(self._session, feeds, self._outputs)
        tensors[self.image] = images
        return Observation(
            images=images,
            places=places,
            tensors={name: read(tensors, places) for name, read in self._readers.items()},
            output=tensors[self.output],
            features=tensors[self.features],
        )


def observable(graph: ir.Graph) -> Iterator[ir.Value]:
    """Tensors that some rule set may quantize: read by more than a rectifier, and float."""
    for value in graphs.activations(graph):
        uses = graphs.consumers(value)
        if uses and not graphs.only_rectified(value) and value.dtype == ir.DataType.FLOAT:
            yield value


def last_features(graph: ir.Graph) -> str:
    """Name of the tensor that the last layer of a network reads; that of the image without one.

    Layers that read several rows of an image are passed over.
    """
    found = graphs.inputs(graph)[0]
    for node in graph:
        value = node.inputs[0] if graphs.layer_of(node) else None
        if value is not None and value.shape and rows_of_images(value.shape) in (None, (0, 1)):
            found = value
    return graphs.value_name(found)


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


def _image_shape(model: ir.Model, source: Path) -> tuple[int, ...]:
    shape = graphs.inputs(model.graph)[0].shape
    if shape is None or any(not isinstance(size, int) for size in list(shape)[1:]):
        raise ModelError(
            f"{source}: the image input needs a fixed shape behind the batch, got {shape}.",
            hint="Export with a fixed image size; only the batch may be dynamic.",
        )
    if isinstance(shape[0], int) and shape[0] != 1:
        raise ModelError(
            f"{source}: the batch is fixed at {shape[0]}.",
            hint="Export with a dynamic batch, or with one of 1.",
        )
    return tuple(int(size) for size in list(shape)[1:] if isinstance(size, int))
