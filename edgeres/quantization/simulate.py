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
    if not qdq.is_file():
        raise ModelError(f"there is no ONNX file {qdq}.", hint="Check the path.")
    session = open_session(qdq.read_bytes(), threads=threads, optimize=False)
    names = [one.name for one in session.get_outputs()]
    output = output or names[0]
    if output not in names:
        raise ModelError(
            f"{qdq}: there is no output {output!r}; there are {', '.join(names)}.",
            hint="Compare models that were made from the same file.",
        )
    fixed = session.get_inputs()[0].shape[0]
    limits = BatchLimits(fixed, fixed) if isinstance(fixed, int) else BatchLimits()
    logits = [
        run_session(session, fed.astype(np.float32, copy=False))[output][:count]
        for images in chunks(iter(batches))
        for fed, count in fitted(images, limits)
    ]
    if not logits:
        raise DataError("there are no images to simulate.", hint="Check the data set.")
    return np.concatenate(logits)
