"""Runs a TensorRT plan on a GPU: loads it and hands runs to its execution contexts.

Not yet run on a GPU: the tests drive it with stand-ins for TensorRT (made from the member lists
of the real bindings) and for the CUDA driver.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from queue import LifoQueue
from typing import Any

import numpy as np

from edgeres.backends._runner import CheckedRunner
from edgeres.backends.base import Array, BatchLimits
from edgeres.backends.tensorrt.api import Trt
from edgeres.backends.tensorrt.context import Lane, Signature
from edgeres.backends.tensorrt.cuda import CudaSession
from edgeres.backends.tensorrt.layerlist import read_inspector
from edgeres.backends.tensorrt.layers import LayerRecord
from edgeres.backends.tensorrt.log import TrtLog, make_log
from edgeres.backends.tensorrt.options import TensorRTOptions
from edgeres.errors import DataError, StageError
from edgeres.graph.summary import TensorSpec
from edgeres.system.files import write_atomic


def deserialize(trt: Trt, plan: bytes, log: TrtLog) -> tuple[Any, Any]:
    """The runtime and the engine in a plan; call it only after the manifest checks.

    A plan is native code: whoever can write it can run code here.

    Raises:
        StageError: TensorRT does not take the plan.
    """
    module = trt.module
    runtime = module.Runtime(log)
    if hasattr(runtime, "get_engine_validity") and hasattr(module, "EngineValidity"):
        validity = runtime.get_engine_validity(plan)[0]
        if validity == module.EngineValidity.INVALID:
            raise StageError(
                f"{trt.title} says the plan cannot run on this GPU ({log.first_error()}).",
                hint="Build the engine again for this machine.",
            )
    cuda_engine = runtime.deserialize_cuda_engine(plan)
    if cuda_engine is None:
        raise StageError(
            f"{trt.title} cannot load the plan: {log.first_error() or 'no reason given'}.",
            hint="Build the engine again on this machine.",
        )
    return runtime, cuda_engine


def inspect_plan(
    trt: Trt, plan: bytes, ordinal: int, op_types: Mapping[str, str]
) -> list[LayerRecord]:
    """The layers of a plan from TensorRT's own inspector, on a GPU.

    Args:
        trt: The imported TensorRT.
        plan: The checked plan.
        ordinal: Which GPU.
        op_types: ONNX op type by node name.

    Raises:
        StageError: TensorRT does not take the plan.
    """
    log = make_log(trt)
    session = CudaSession(ordinal)
    try:
        _runtime, cuda_engine = deserialize(trt, plan, log)
        inspector = cuda_engine.create_engine_inspector()
        text = inspector.get_engine_information(trt.module.LayerInformationFormat.JSON)
        return read_inspector(text, op_types)
    finally:
        session.close()


def _load_runtime_cache(module: Any, runtime_config: Any, path: Path) -> Any | None:
    """Gives TensorRT for RTX the kernels of earlier runs; other versions have no such cache.

    What the file holds is native code: keep it where only you can write.
    """
    if not hasattr(module, "IRuntimeCache") or not hasattr(runtime_config, "create_runtime_cache"):
        return None
    runtime_cache = runtime_config.create_runtime_cache()
    if path.is_file():
        runtime_cache.deserialize(path.read_bytes())
    if hasattr(runtime_config, "set_runtime_cache"):
        runtime_config.set_runtime_cache(runtime_cache)
    return runtime_cache


def _replay_whole_graph(module: Any, runtime_config: Any) -> None:
    """TensorRT for RTX's own way to replay a run as one CUDA graph."""
    if hasattr(module, "CudaGraphStrategy") and hasattr(runtime_config, "cuda_graph_strategy"):
        runtime_config.cuda_graph_strategy = module.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE


class TensorRTRunner(CheckedRunner):
    """A loaded plan with one or more execution contexts.

    ``infer`` may be called from as many threads at a time as there are contexts; one more waits
    for a free one. ``device_ms`` is the time of the last run on the device alone, without the
    copies; latency as edgeres reports it includes them.
    """

    def __init__(self, trt: Trt, plan: bytes, ordinal: int, options: TensorRTOptions) -> None:
        """Loads a checked plan.

        Args:
            trt: The imported TensorRT.
            plan: The plan's bytes; see :func:`deserialize`.
            ordinal: Which GPU.
            options: ``contexts``, ``cuda_graph`` and ``runtime_cache`` are used here.

        Raises:
            BackendMissingError: There is no driver.
            StageError: The plan does not load, or the GPU has too little memory.
        """
        self.device_ms = 0.0
        self._trt = trt
        self._options = options
        self._lanes: list[Lane] = []
        self._free_lanes: LifoQueue[Lane] = LifoQueue()
        self._runtime_config: Any | None = None
        self._runtime_cache: Any | None = None
        self._log = make_log(trt)
        # Makes the GPU's context current for this thread: loading needs one.
        self._session = CudaSession(ordinal)
        try:
            self._runtime, self._engine = deserialize(trt, plan, self._log)
            self._signature = self._describe()
            self._configure()
            for _ in range(options.contexts):
                self._lanes.append(self._make_lane(ordinal))
        except BaseException:
            self._free()
            raise
        super().__init__(self._signature.inputs, self._signature.outputs)
        for lane in self._lanes:
            self._free_lanes.put(lane)

    @property
    def batch_limits(self) -> BatchLimits:
        """What all inputs take by the engine's optimization profile."""
        ends = [(low[0], high[0]) for low, high in self._signature.limits.values() if low]
        if not ends:
            return BatchLimits()
        return BatchLimits(max(low for low, _ in ends), min(high for _, high in ends))

    def _infer(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        self._check_profile(feeds)
        lane = self._free_lanes.get()
        try:
            results, self.device_ms = lane.run(feeds)
        finally:
            self._free_lanes.put(lane)
        return results

    def _close(self) -> None:
        path = self._options.runtime_cache
        try:
            if path is not None and self._runtime_cache is not None:
                write_atomic(path, bytes(self._runtime_cache.serialize()))
        finally:
            self._free()

    def _free(self) -> None:
        # TensorRT's objects must go before the context that their memory lives in.
        for lane in self._lanes:
            lane.close()
        self._lanes = []
        self._runtime_cache = self._runtime_config = self._engine = self._runtime = None
        self._session.close()

    def _configure(self) -> None:
        """TensorRT for RTX takes its cache and graph strategy for all contexts of an engine."""
        module, cuda_engine, options = self._trt.module, self._engine, self._options
        if not hasattr(module, "IRuntimeCache") or not hasattr(
            cuda_engine, "create_runtime_config"
        ):
            return
        runtime_config = cuda_engine.create_runtime_config()
        if options.cuda_graph:
            _replay_whole_graph(module, runtime_config)
        if options.runtime_cache is not None:
            self._runtime_cache = _load_runtime_cache(module, runtime_config, options.runtime_cache)
        self._runtime_config = runtime_config

    def _make_lane(self, ordinal: int) -> Lane:
        cuda_engine, runtime_config = self._engine, self._runtime_config
        if runtime_config is not None:
            execution = cuda_engine.create_execution_context(runtime_config)
        else:
            execution = cuda_engine.create_execution_context()
        if execution is None:
            raise StageError(
                f"TensorRT made no execution context: {self._log.first_error() or 'no reason'}.",
                hint="The GPU may be out of memory; build with a smaller max_batch, or run with "
                "fewer contexts.",
            )
        graph = self._options.cuda_graph
        return Lane(self._trt, execution, self._signature, ordinal, self._log, cuda_graph=graph)

    def _describe(self) -> Signature:
        """Inputs and outputs, and the profile's limits of the inputs."""
        module, cuda_engine = self._trt.module, self._engine
        inputs, outputs = [], []
        limits: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}
        for index in range(cuda_engine.num_io_tensors):
            name = cuda_engine.get_tensor_name(index)
            shape = tuple(int(size) for size in cuda_engine.get_tensor_shape(name))
            kind = np.dtype(module.nptype(cuda_engine.get_tensor_dtype(name))).name
            spec = TensorSpec(name, tuple(None if size < 0 else size for size in shape), kind)
            if cuda_engine.get_tensor_mode(name) == module.TensorIOMode.INPUT:
                inputs.append(spec)
                low, _, high = cuda_engine.get_tensor_profile_shape(name, 0)
                limits[name] = (tuple(low), tuple(high))
            else:
                outputs.append(spec)
        return Signature(tuple(inputs), tuple(outputs), limits)

    def _check_profile(self, feeds: Mapping[str, Array]) -> None:
        """Refuses what the engine was not made for.

        Raises:
            DataError: A size outside the engine's optimization profile.
        """
        for name, (low, high) in self._signature.limits.items():
            shape = feeds[name].shape
            if not all(a <= size <= b for a, size, b in zip(low, shape, high, strict=True)):
                raise DataError(
                    f"input {name}: this engine takes shapes {low} to {high}, got {shape}.",
                    hint="Use a smaller batch, or build the engine with a larger max_batch.",
                )
