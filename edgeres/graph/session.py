"""An ONNX model run by ONNX Runtime on the CPU: for calibration, comparison and parity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeres.errors import DataError, ModelError, StageError, one_line
from edgeres.graph.feeds import as_taken
from edgeres.system.extras import import_extra
from edgeres.system.memory import give_back

_BYTES = "tensor(uint8)"


def open_session(
    model: bytes,
    *,
    threads: int | None = None,
    optimize: bool = True,
    fuse_quantized: bool = True,
    weights: dict[str, NDArray[np.generic]] | None = None,
    trim: bool = True,
) -> Any:
    """Opens an ONNX Runtime session on the CPU.

    Args:
        model: Serialized model.
        threads: Intra-op threads; ``None`` leaves it to ONNX Runtime.
        optimize: False runs the graph exactly as it is written.
        fuse_quantized: False keeps ops between Q and DQ in float. What ONNX Runtime fuses is wrong
            where scales are inputs of the graph.
        weights: What was taken out of the model before (`detach_weights`); emptied, so that the
            arrays are gone before the engine packs its own.
        trim: Give freed memory back to the system afterwards. Of many small sessions each would
            cost the pages of the next.

    Raises:
        BackendMissingError: ONNX Runtime is not installed.
        ModelError: ONNX Runtime rejects the model.
    """
    ort: Any = import_extra("onnxruntime", extra="onnxruntime", user="running an ONNX model")
    options = ort.SessionOptions()
    options.log_severity_level = 4  # what fails is raised, and said once
    options.intra_op_num_threads = threads or 0
    options.enable_mem_pattern = False  # halves the peak with many small outputs, costs nothing
    if not fuse_quantized:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    if weights:
        names = list(weights)
        values = [ort.OrtValue.ortvalue_from_numpy(weights.pop(name)) for name in names]
        options.add_external_initializers(names, values)
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions share no public base
        raise ModelError(
            f"ONNX Runtime rejects the model: {one_line(error)}.",
            hint="Check the model with `onnx.checker` and its opset.",
        ) from error
    if trim:
        give_back()
    return session


def run_session(session: Any, images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """Runs a session with one input and gives all outputs by name.

    A network that takes one batch size only gets its images in parts of that size.

    Raises:
        DataError: The images do not fit the input.
        StageError: ONNX Runtime failed.
    """
    source = session.get_inputs()[0]
    names = [output.name for output in session.get_outputs()]
    size = source.shape[0] if source.shape and isinstance(source.shape[0], int) else len(images)
    parts = []
    for start in range(0, len(images), size or 1):
        part = images[start : start + size]
        check_images(session, part)
        fed = as_taken("uint8", part) if source.type == _BYTES else part
        parts.append(_run(session, names, {source.name: np.ascontiguousarray(fed)}))
    if len(parts) == 1:
        return dict(zip(names, parts[0], strict=True))
    wholes = (np.concatenate(values) for values in zip(*parts, strict=True))
    return dict(zip(names, wholes, strict=True))


def run_feeds(
    session: Any, feeds: Mapping[str, NDArray[np.generic]], outputs: Sequence[str]
) -> dict[str, NDArray[np.float32]]:
    """Runs a session with several inputs and gives some outputs by name.

    Raises:
        StageError: ONNX Runtime failed.
    """
    return dict(zip(outputs, _run(session, outputs, feeds), strict=True))


def _run(
    session: Any, names: Sequence[str], feeds: Mapping[str, NDArray[np.generic]]
) -> list[NDArray[np.float32]]:
    try:
        return list(session.run(list(names), dict(feeds)))
    except Exception as error:  # ONNX Runtime's exceptions share no public base
        raise StageError(
            f"ONNX Runtime failed: {one_line(error)}.",
            hint="Run the model alone in ONNX Runtime to see what is wrong with it.",
        ) from error


def check_images(session: Any, images: NDArray[np.float32]) -> None:
    """Checks that images fit the only input of a session.

    Raises:
        DataError: They do not.
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
            hint="Check size, channels and layout of the preprocessing, or the features' shape.",
        )
