"""The FP32 forward pass of calibration, with the statistics computed inside the graph.

ONNX Runtime is the calibration engine. Reductions are added to the graph, so whole activations
never leave the engine: per image and tensor come out the extremes, the channel means and a sample
of values for the histogram. That keeps memory flat and the cost near that of the bare pass.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeres.errors import BackendMissingError, DataError, ModelError, StageError
from edgeres.exporting.shapes import BATCH, set_batch
from edgeres.quantization import graph as graphs
from edgeres.quantization.probes import Probe, Prober, inner_shape, observable

#: Numbers in the input batches that run at once, at most: 1 image of 3 x 224 x 224.
_CHUNK_NUMBERS = 3 * 224 * 224
_CHUNK_IMAGES = 64
_SMALL_BYTES = 1024


@dataclass(frozen=True)
class Observed:
    """One tensor for some images.

    Attributes:
        low: ``(N,) float32`` smallest value of each image.
        high: ``(N,) float32`` largest value of each image.
        sample: ``(N, C, S)`` or ``(N, S) float32`` values at fixed positions.
        channel_mean: ``(N, C) float32`` or ``None`` where no weighted layer reads the tensor.
    """

    low: NDArray[np.float32]
    high: NDArray[np.float32]
    sample: NDArray[np.float32]
    channel_mean: NDArray[np.float32] | None


class ObservedModel:
    """An FP32 model in ONNX Runtime that tells about its activations.

    Attributes:
        image: Name of the image input.
        image_shape: Shape of one image.
        shapes: Tensor name to shape without the batch, in topological order.
    """

    def __init__(self, onnx: Path, *, threads: int | None = None) -> None:
        """Prepares the graph and the session.

        Raises:
            ModelError: The model cannot be quantized or ONNX Runtime rejects it.
            BackendMissingError: ONNX Runtime is not installed.
        """
        self._probes: list[Probe] = []
        self.shapes: dict[str, tuple[int, ...]] = {}
        skeleton, weights = self._with_probes(onnx)
        gc.collect()  # a graph is full of cycles; it holds weights that the engine copies now
        self._session = open_session(skeleton, threads=threads, weights=weights)

    def _with_probes(self, onnx: Path) -> tuple[bytes, dict[str, NDArray[np.generic]]]:
        """The serialized model that tells about its activations, and its weights."""
        model = graphs.load_model(onnx)
        self.image = graphs.value_name(graphs.inputs(model.graph)[0])
        self.image_shape = _image_shape(model, onnx)
        infer_shapes(model)
        self._output = graphs.value_name(model.graph.outputs[0])
        for value in list(observable(model.graph)):
            self.shapes[graphs.value_name(value)] = inner_shape(value)
            self._probes.append(Prober(model.graph, value).add())
        weights = detach_weights(model)
        return ir.to_proto(model).SerializeToString(), weights

    def run(self, images: NDArray[np.float32]) -> tuple[dict[str, Observed], NDArray[np.float32]]:
        """Runs some images.

        Args:
            images: ``(N, C, H, W) float32``.

        Returns:
            Observations by tensor name, and the logits ``(N, K) float32``.

        Raises:
            DataError: The shape does not fit the model.
            StageError: ONNX Runtime failed.
        """
        got = run_session(self._session, images)
        seen = {probe.tensor: _observed(probe, got, len(images)) for probe in self._probes}
        return seen, got[self._output]


def _observed(probe: Probe, got: Mapping[str, NDArray[np.float32]], count: int) -> Observed:
    high = got[probe.high].reshape(count, -1).max(axis=1)
    zero = np.zeros(count, np.float32)
    low = zero if probe.low is None else got[probe.low].reshape(count, -1).min(axis=1)
    mean = None if probe.mean is None else got[probe.mean].reshape(count, -1)
    return Observed(low, high, got[probe.sample], mean)


def chunks(
    batches: Sequence[NDArray[np.float32]] | Iterator[NDArray[np.float32]],
) -> Iterator[NDArray[np.float32]]:
    """Splits batches so that memory does not depend on the caller's batch size."""
    for batch in batches:
        numbers = int(np.prod(batch.shape[1:])) or 1
        size = max(1, min(_CHUNK_IMAGES, _CHUNK_NUMBERS // numbers))
        for start in range(0, len(batch), size):
            yield batch[start : start + size]


def detach_weights(model: ir.Model) -> dict[str, NDArray[np.generic]]:
    """Takes the large initializers out of a model, in place, so that its proto stays small.

    Serializing a whole model costs several copies of its weights; :func:`open_session` takes them
    as they are.
    """
    weights = {}
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is None or tensor.nbytes <= _SMALL_BYTES:
            continue
        weights[name] = np.ascontiguousarray(tensor.numpy())
        value.const_value = ir.ExternalTensor(
            "detached",
            0,
            tensor.nbytes,
            tensor.dtype,
            shape=ir.Shape(weights[name].shape),
            name=name,
            base_dir="",
        )
    return weights


def open_session(
    model: bytes,
    *,
    threads: int | None = None,
    optimize: bool = True,
    weights: dict[str, NDArray[np.generic]] | None = None,
) -> Any:
    """Opens an ONNX Runtime session on the CPU.

    Args:
        model: Serialized model.
        threads: Intra-op threads; ``None`` leaves it to ONNX Runtime.
        optimize: False runs the graph exactly as it is written.
        weights: What :func:`detach_weights` took out of the model; emptied, so that the arrays are
            gone before the engine packs its own.

    Raises:
        BackendMissingError: ONNX Runtime is not installed.
        ModelError: ONNX Runtime rejects the model.
    """
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise BackendMissingError(
            "calibration runs the FP32 model in ONNX Runtime, which is not installed.",
            hint="pip install 'edgeres[onnxruntime]'",
        ) from error
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or 0
    options.enable_mem_pattern = False  # halves the peak with many small outputs, costs nothing
    if weights:
        names = list(weights)
        values = [ort.OrtValue.ortvalue_from_numpy(weights.pop(name)) for name in names]
        options.add_external_initializers(names, values)
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions share no public base
        raise ModelError(
            f"ONNX Runtime rejects the model: {str(error).splitlines()[0]}",
            hint="Check the model with `onnx.checker` and its opset.",
        ) from error


def run_session(session: Any, images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """Runs a session with one input and gives all outputs by name.

    Raises:
        DataError: The images do not fit the input.
        StageError: ONNX Runtime failed.
    """
    spec = session.get_inputs()[0]
    fits = len(spec.shape) == images.ndim and all(
        not isinstance(want, int) or want == got
        for want, got in zip(spec.shape, images.shape, strict=True)
    )
    if not fits or images.dtype != np.float32:
        raise DataError(
            f"the model takes float32 images {list(spec.shape)}; got {images.dtype} "
            f"{list(images.shape)}.",
            hint="Check the preprocessing: size, channels and layout.",
        )
    names = [output.name for output in session.get_outputs()]
    try:
        values = session.run(names, {spec.name: np.ascontiguousarray(images)})
    except Exception as error:  # ONNX Runtime's exceptions share no public base
        raise StageError(
            f"the FP32 forward pass failed in ONNX Runtime: {str(error).splitlines()[0]}",
            hint="Run the model alone in ONNX Runtime to see what is wrong with it.",
        ) from error
    return dict(zip(names, values, strict=True))


def infer_shapes(model: ir.Model) -> None:
    """Adds the shapes of all activations in place, for a free batch.

    Raises:
        ModelError: The graph contradicts itself.
    """
    set_batch(model, BATCH)


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
