"""What a model is made into before calibration runs it: small in memory, with known shapes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from edgeres.graph.shapes import BATCH, set_batch

#: Numbers in the input batches that run at once, at most: 1 image of 3 x 224 x 224.
_CHUNK_NUMBERS = 3 * 224 * 224
_CHUNK_IMAGES = 64
_SMALL_BYTES = 1024
_DETACHED = "detached"


def chunks(
    batches: Sequence[NDArray[np.float32]] | Iterator[NDArray[np.float32]],
    fixed: int | None = None,
) -> Iterator[NDArray[np.float32]]:
    """Splits batches so that memory does not depend on the caller's batch size.

    A network that takes one batch size only gets that one (``fixed``).
    """
    for batch in batches:
        numbers = int(np.prod(batch.shape[1:])) or 1
        size = fixed or max(1, min(_CHUNK_IMAGES, _CHUNK_NUMBERS // numbers))
        for start in range(0, len(batch), size):
            yield batch[start : start + size]


def detach_weights(model: ir.Model) -> dict[str, NDArray[np.generic]]:
    """Takes the large initializers out of a model, in place, so that its proto stays small.

    Serializing a whole model costs several copies of its weights;
    :func:`edgeres.graph.session.open_session` takes them as they are.
    """
    weights = {}
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is None or tensor.nbytes <= _SMALL_BYTES:
            continue
        weights[name] = np.ascontiguousarray(tensor.numpy())
        value.const_value = ir.ExternalTensor(
            _DETACHED,
            0,
            tensor.nbytes,
            tensor.dtype,
            shape=ir.Shape(weights[name].shape),
            name=name,
            base_dir="",
        )
    return weights


def detached_proto(name: str, content: NDArray[np.generic]) -> onnx.TensorProto:
    """An initializer whose content :func:`edgeres.graph.session.open_session` takes as it is."""
    proto = onnx.TensorProto(
        name=name,
        dims=content.shape,
        data_type=onnx.helper.np_dtype_to_tensor_dtype(content.dtype),
        data_location=onnx.TensorProto.EXTERNAL,
    )
    proto.external_data.add(key="location", value=_DETACHED)
    return proto


def infer_shapes(model: ir.Model) -> None:
    """Adds the shapes of all activations in place, for a free batch where the model takes any.

    Raises:
        ModelError: The graph contradicts itself.
    """
    set_batch(model, fixed_batch(model) or BATCH)


def fixed_batch(model: ir.Model) -> int | None:
    """The batch that a model insists on; ``None`` where any will do."""
    image = next((value for value in model.graph.inputs if not value.is_initializer()), None)
    first = None if image is None or image.shape is None else next(iter(image.shape), None)
    return first if isinstance(first, int) else None
