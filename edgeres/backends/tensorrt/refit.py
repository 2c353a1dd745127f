"""Puts the weights back into a plan that was built without them.

A plan with ``strip_plan`` holds kernels and no weights. These lie beside it, in the ONNX file that
it was built from: a new plan for a fleet (another TensorRT, another GPU) is then small, and so is
the plan in the store of an application that ships the ONNX file anyway. NVIDIA's example is
``samples/python/sample_weight_stripping`` in github.com/NVIDIA/TensorRT.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeres.backends.tensorrt.api import Trt
from edgeres.backends.tensorrt.cuda import on_gpu
from edgeres.backends.tensorrt.load import deserialize
from edgeres.backends.tensorrt.log import Heard, listening, process_log
from edgeres.backends.tensorrt.options import TensorRTOptions
from edgeres.errors import StageError

_SUFFIX = ".weights.onnx"


def weights_path(plan: Path) -> Path:
    """Where the weights of a stripped plan lie."""
    return plan.with_name(plan.name + _SUFFIX)


def whole_plan(
    trt: Trt, plan: bytes, weights: Path, ordinal: int, options: TensorRTOptions
) -> bytes:
    """A stripped plan with its weights.

    Args:
        trt: The imported TensorRT.
        plan: The checked plan.
        weights: ONNX file of :func:`weights_path`, checked as well.
        ordinal: Which GPU.
        options: As for :func:`edgeres.backends.tensorrt.load.deserialize`.

    Raises:
        BackendMissingError: There is no driver.
        StageError: This TensorRT cannot, or the weights do not belong to the plan.
    """
    with on_gpu(ordinal), listening(trt) as heard:
        whole = _refit(trt, plan, weights, options, heard)
        # Raised here: a traceback through the frames below would keep the engine alive.
        if whole is None:
            raise StageError(
                f"{weights}: {trt.title} does not take these weights for the plan beside them "
                f"({heard.reason()}).",
                hint="Build the engine again.",
            )
        return whole


def _refit(
    trt: Trt, plan: bytes, weights: Path, options: TensorRTOptions, heard: Heard
) -> bytes | None:
    """Refitters, engine and runtime are gone in that order on return."""
    runtime, cuda_engine = deserialize(trt, plan, options, heard)
    try:
        return _refitted(trt, cuda_engine, weights)
    finally:
        del cuda_engine
        del runtime


def _refitted(trt: Trt, cuda_engine: Any, weights: Path) -> bytes | None:
    module = trt.module
    if not (
        hasattr(module, "OnnxParserRefitter")
        and hasattr(module, "SerializationFlag")
        and hasattr(cuda_engine, "create_serialization_config")
        and hasattr(cuda_engine, "serialize_with_config")
    ):
        raise StageError(f"{trt.title} cannot refit a plan.", hint="Use TensorRT 10 or later.")
    log = process_log(trt)
    refitter = module.Refitter(cuda_engine, log)
    parser_refitter = module.OnnxParserRefitter(refitter, log)
    fits = parser_refitter.refit_from_file(str(weights)) and refitter.refit_cuda_engine()
    del parser_refitter
    del refitter
    if not fits:
        return None
    # A stripped engine leaves its weights out by itself.
    serialization = cuda_engine.create_serialization_config()
    serialization.flags &= ~(1 << int(module.SerializationFlag.EXCLUDE_WEIGHTS))
    return bytes(cuda_engine.serialize_with_config(serialization))
