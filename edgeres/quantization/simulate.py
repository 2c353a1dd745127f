"""The Q/DQ model as it is written, in float arithmetic: the reference for what INT8 should give.

ONNX Runtime with all graph optimizations off runs every QuantizeLinear and DequantizeLinear as a
node and every convolution in float32. A real engine may differ from it by rounding only; where it
differs by more, it saturates, fuses in another way, or is wrong. Simulated accuracy proves nothing
about a device: it tells an engine's fault from quantization's cost.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeres.backends.base import BatchLimits
from edgeres.backends.classifier import fitted
from edgeres.errors import DataError, ModelError
from edgeres.graph.session import open_session, run_session
from edgeres.quantization.forward import chunks


def simulated_logits(
    qdq: Path,
    batches: Iterable[NDArray[np.float32]],
    *,
    output: str = "",
    threads: int | None = None,
) -> NDArray[np.float32]:
    """Runs images through a Q/DQ model exactly as it is written.

    A model with a fixed batch is fed full batches, as in :mod:`edgeres.evaluation.predict`.

    Args:
        qdq: The Q/DQ model (any ONNX network with one image input will do).
        batches: Preprocessed images, each ``(N, C, H, W) float32``.
        output: Name of the output that is wanted; the first where left out.
        threads: Threads of ONNX Runtime; ``None`` leaves it the choice.

    Returns:
        ``(N, K) float32`` logits of all images, in order; another output as it is, ``(N, ...)``.

    Raises:
        ModelError: The file is missing, has no such output, or ONNX Runtime rejects it.
        DataError: There are no images, or they do not fit the input.
        BackendMissingError: ONNX Runtime is not installed.
    """
    outputs = simulated_outputs(qdq, batches, threads=threads)
    if output and output not in outputs:
        raise ModelError(
            f"{qdq}: there is no output {output!r}; there are {', '.join(outputs)}.",
            hint="Compare models that were made from the same file.",
        )
    return outputs[output or next(iter(outputs))]


def simulated_outputs(
    qdq: Path, batches: Iterable[NDArray[np.float32]], *, threads: int | None = None
) -> dict[str, NDArray[np.float32]]:
    """All outputs of a Q/DQ model, ``(N, ...) float32`` by name; see :func:`simulated_logits`."""
    if not qdq.is_file():
        raise ModelError(f"there is no ONNX file {qdq}.", hint="Check the path.")
    session = open_session(qdq.read_bytes(), threads=threads, optimize=False)
    fixed = session.get_inputs()[0].shape[0]
    limits = BatchLimits(fixed, fixed) if isinstance(fixed, int) else BatchLimits()
    parts = []
    for images in chunks(iter(batches)):
        for fed, count in fitted(images, limits):
            found = run_session(session, fed.astype(np.float32, copy=False))
            parts.append({name: values[:count] for name, values in found.items()})
    if not parts:
        raise DataError("there are no images to simulate.", hint="Check the data set.")
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
