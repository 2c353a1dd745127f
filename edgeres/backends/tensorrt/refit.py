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
from edgeres.backends.tensorrt.cuda import CudaSession
from edgeres.backends.tensorrt.log import TrtLog, make_log
from edgeres.backends.tensorrt.run import deserialize
from edgeres.errors import StageError

_SUFFIX = ".weights.onnx"


def weights_path(plan: Path) -> Path:
    """Where the weights of a stripped plan lie."""
    return plan.with_name(plan.name + _SUFFIX)


def whole_plan(trt: Trt, plan: bytes, weights: Path, ordinal: int) -> bytes:
    """A stripped plan with its weights.

    Args:
        trt: The imported TensorRT.
        plan: The checked plan.
        weights: ONNX file of :func:`weights_path`, checked as well.
        ordinal: Which GPU.

    Raises:
        BackendMissingError: There is no driver.
        StageError: This TensorRT cannot, or the weights do not belong to the plan.
    """
    log = make_log(trt)
    session = CudaSession(ordinal)
    try:
        _runtime, cuda_engine = deserialize(trt, plan, log)
        return _refit(trt, cuda_engine, log, weights)
    finally:
        session.close()


def _refit(trt: Trt, cuda_engine: Any, log: TrtLog, weights: Path) -> bytes:
    module = trt.module
    if not (
        hasattr(module, "OnnxParserRefitter")
        and hasattr(module, "SerializationFlag")
        and hasattr(cuda_engine, "create_serialization_config")
        and hasattr(cuda_engine, "serialize_with_config")
    ):
        raise StageError(f"{trt.title} cannot refit a plan.", hint="Use TensorRT 10 or later.")
    refitter = module.Refitter(cuda_engine, log)
    parser_refitter = module.OnnxParserRefitter(refitter, log)
    if not (parser_refitter.refit_from_file(str(weights)) and refitter.refit_cuda_engine()):
        raise StageError(
            f"{weights}: {trt.title} does not take these weights for the plan beside them "
            f"({log.first_error() or 'no reason given'}).",
            hint="Build the engine again.",
        )
    # A stripped engine leaves its weights out by itself.
    serialization = cuda_engine.create_serialization_config()
    serialization.flags &= ~(1 << int(module.SerializationFlag.EXCLUDE_WEIGHTS))
    return bytes(cuda_engine.serialize_with_config(serialization))
