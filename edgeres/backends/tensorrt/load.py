"""Deserializes a plan, and asks the engine in it for its layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeres.backends.tensorrt.api import Trt
from edgeres.backends.tensorrt.cuda import on_gpu
from edgeres.backends.tensorrt.layerlist import read_inspector
from edgeres.backends.tensorrt.layers import LayerRecord
from edgeres.backends.tensorrt.log import Heard, listening, process_log
from edgeres.backends.tensorrt.options import TensorRTOptions
from edgeres.errors import BackendMissingError, StageError


def deserialize(trt: Trt, plan: bytes, options: TensorRTOptions, heard: Heard) -> tuple[Any, Any]:
    """The runtime and the engine in a plan; call it only after the sidecar's checks.

    A plan is native code: whoever can write it can run code here.

    Args:
        trt: The imported TensorRT.
        plan: The checked plan.
        options: ``dla_core`` and ``version_compatible`` of the build.
        heard: What TensorRT says meanwhile.

    Raises:
        BackendMissingError: There is no such DLA core.
        StageError: TensorRT does not take the plan.
    """
    runtime = trt.module.Runtime(process_log(trt))
    try:
        return runtime, _engine_in(trt, runtime, plan, options, heard)
    except BaseException as error:
        error.__traceback__ = None  # which would keep the runtime longer than the GPU's context
        del runtime
        raise


def _engine_in(trt: Trt, runtime: Any, plan: bytes, options: TensorRTOptions, heard: Heard) -> Any:
    module = trt.module
    if options.version_compatible:
        # Such a plan holds a runtime of its own, which is loaded and run.
        runtime.engine_host_code_allowed = True
    if options.dla_core is not None:
        if options.dla_core >= runtime.num_DLA_cores:
            raise BackendMissingError(
                f"the plan is for DLA core {options.dla_core}; {trt.title} sees "
                f"{runtime.num_DLA_cores} DLA cores here.",
                hint="Run it on the machine that it was built for, or say another dla_core.",
            )
        runtime.DLA_core = options.dla_core
    if hasattr(runtime, "get_engine_validity") and hasattr(module, "EngineValidity"):
        validity = runtime.get_engine_validity(plan)[0]
        if validity == module.EngineValidity.INVALID:
            raise StageError(
                f"{trt.title} says the plan cannot run on this GPU ({heard.reason()}).",
                hint="Build the engine again for this machine.",
            )
    cuda_engine = runtime.deserialize_cuda_engine(plan)
    if cuda_engine is None:
        raise StageError(
            f"{trt.title} cannot load the plan: {heard.reason()}.",
            hint="Build the engine again on this machine.",
        )
    return cuda_engine


def inspect_plan(
    trt: Trt, plan: bytes, ordinal: int, options: TensorRTOptions, op_types: Mapping[str, str]
) -> list[LayerRecord]:
    """The layers of a plan from TensorRT's own inspector, on a GPU.

    Args:
        trt: The imported TensorRT.
        plan: The checked plan.
        ordinal: Which GPU.
        options: As for :func:`deserialize`.
        op_types: ONNX op type by node name.

    Raises:
        BackendMissingError: There is no driver, or no such DLA core.
        StageError: TensorRT does not take the plan.
    """
    with on_gpu(ordinal), listening(trt) as heard:
        return read_inspector(_told(trt, plan, options, heard), op_types)


def _told(trt: Trt, plan: bytes, options: TensorRTOptions, heard: Heard) -> str:
    """What the inspector writes; inspector, engine and runtime are gone in that order on return."""
    runtime, cuda_engine = deserialize(trt, plan, options, heard)
    inspector = cuda_engine.create_engine_inspector()
    try:
        kind = trt.module.LayerInformationFormat.JSON
        return str(inspector.get_engine_information(kind))
    finally:
        del inspector
        del cuda_engine
        del runtime
