"""The foreign model as it came, run by ONNX Runtime: what the imported one is compared with.

Where a model ends in a Softmax, the tensor in front of it is compared too: probabilities near 0
and 1 hide errors that the logits show.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from edgeres.exporting.parity import F32
from edgeres.graph.session import open_session, run_feeds

_DTYPES = {
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
    "tensor(uint16)": np.uint16,
    "tensor(uint32)": np.uint32,
    "tensor(int16)": np.int16,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
}
ACTIVATIONS = ("Softmax", "LogSoftmax", "Sigmoid")


class Original:
    """A loaded foreign model; it gets numbers of the type that it takes, and gives float32.

    Args:
        model: The whole model, with its data inside.
        outputs: Names of the outputs that are compared.
        sample_shape: Shape of one sample as the model takes it.
        batch: The batch that the model insists on; ``None`` where any will do.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        outputs: Sequence[str],
        sample_shape: Sequence[int],
        batch: int | None,
    ) -> None:
        watched, self._names = expose(model, outputs)
        self._session = open_session(watched)
        (fed,) = self._session.get_inputs()
        self._input, self._dtype = fed.name, _DTYPES.get(fed.type)
        self._sample_shape, self._batch = tuple(sample_shape), batch

    def run(self, images: F32) -> list[F32]:
        """Runs ``(N, ...)`` images in batches that the model accepts.

        Returns:
            Each output flat, ``(N, K)``, then the tensors in front of their final activations.
        """
        step = self._batch or len(images)
        padding = np.zeros((-len(images) % step, *self._sample_shape), np.float32)
        padded = np.concatenate([images, padding]).astype(self._dtype or np.float32)
        parts = [
            run_feeds(self._session, {self._input: padded[start : start + step]}, self._names)
            for start in range(0, len(padded), step)
        ]
        joined = [np.concatenate([part[name] for part in parts]) for name in self._names]
        flat = [values.reshape(len(padded), -1)[: len(images)] for values in joined]
        return [values.astype(np.float32) for values in flat]


def expose(model: onnx.ModelProto, outputs: Sequence[str] = ()) -> tuple[bytes, list[str]]:
    """Makes the tensors in front of final activations outputs as well.

    Args:
        model: The model.
        outputs: Names of the outputs that count; all where none is named.

    Returns:
        The changed copy's bytes, and the names of those outputs and of such tensors.
    """
    known = {value.name for value in model.graph.output}
    wanted = list(outputs) or [value.name for value in model.graph.output]
    before = [name for output in wanted if (name := before_activation(model, output)) is not None]
    names = list(dict.fromkeys([*wanted, *before]))
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in names:
        if tensor not in known:
            copy.graph.output.append(onnx.helper.make_empty_tensor_value_info(tensor))
    return copy.SerializeToString(), names


def before_activation(model: onnx.ModelProto, output: str) -> str | None:
    """The tensor that a model's last activation reads; ``None`` where the scores are logits."""
    makers = {name: node for node in model.graph.node for name in node.output}
    node = makers.get(output)
    while node is not None and node.op_type == "Identity":
        node = makers.get(node.input[0])
    return node.input[0] if node is not None and node.op_type in ACTIVATIONS else None
