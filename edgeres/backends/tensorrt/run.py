"""Runs a TensorRT plan on a GPU: loads it and hands runs to its execution contexts.

Not yet run on a GPU: the tests drive it with stand-ins for TensorRT (made from the member lists
of the real bindings) and for the CUDA driver.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeres.backends._runner import CheckedRunner, check_form, check_names
from edgeres.backends.base import Array, BatchLimits
from edgeres.backends.tensorrt.api import Trt
from edgeres.backends.tensorrt.context import Lane
from edgeres.backends.tensorrt.cuda import CudaContext
from edgeres.backends.tensorrt.execution import Execution
from edgeres.backends.tensorrt.gpus import Gpu
from edgeres.backends.tensorrt.lanes import LanePool
from edgeres.backends.tensorrt.load import deserialize
from edgeres.backends.tensorrt.log import Heard, listening
from edgeres.backends.tensorrt.options import TensorRTOptions
from edgeres.backends.tensorrt.resident import DeviceArray, device_feed
from edgeres.backends.tensorrt.signature import read_signature
from edgeres.errors import StageError
from edgeres.system.files import write_atomic


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
    """A loaded plan with one or more lanes: streams with execution contexts and buffers.

    ``infer`` may be called from as many threads at a time as there are lanes; one more waits
    for a free one, and ``close`` waits for the runs that are under way.
    """

    def __init__(self, trt: Trt, plan: bytes, gpu: Gpu, options: TensorRTOptions) -> None:
        """Loads a checked plan.

        Args:
            trt: The imported TensorRT.
            plan: The plan's bytes; see :func:`edgeres.backends.tensorrt.load.deserialize`.
            gpu: Where it runs.
            options: ``contexts``, ``cuda_graph``, ``runtime_cache``, ``dla_core`` and
                ``version_compatible`` are used here.

        Raises:
            BackendMissingError: There is no driver, or no such DLA core.
            StageError: The plan does not load, or the GPU has too little memory.
        """
        self._trt = trt
        self._options = options
        self._last = threading.local()
        self._lanes = LanePool(())
        self._engine: Any | None = None
        self._runtime: Any | None = None
        self._runtime_config: Any | None = None
        self._runtime_cache: Any | None = None
        self._context = CudaContext(gpu.ordinal)
        lanes: list[Lane] = []
        try:
            with self._context.current(), listening(trt) as heard:
                self._runtime, self._engine = deserialize(trt, plan, options, heard)
                self._signature = read_signature(trt, self._engine)
                self._configure()
                for _ in range(options.contexts):
                    graph = options.cuda_graph
                    make = self._make_execution
                    lanes.append(Lane(trt, make, self._signature, gpu, cuda_graph=graph))
        except BaseException as error:
            error.__traceback__ = None  # which would keep the engine longer than the GPU's context
            self._lanes = LanePool(lanes)
            self._free()
            raise
        self._lanes = LanePool(lanes)
        super().__init__(self._signature.inputs, self._signature.outputs)

    @property
    def device_ms(self) -> float:
        """Time on the device of this thread's last run, in milliseconds; 0 before the first.

        Without the copies, and without what the first run of a shape does more; latency as edgeres
        reports it includes the copies.
        """
        return float(getattr(self._last, "device_ms", 0.0))

    @property
    def batch_limits(self) -> BatchLimits:
        """What all inputs take by the engine's optimization profiles."""
        return self._signature.batch_limits

    def infer_resident(self, feeds: Mapping[str, object]) -> dict[str, DeviceArray]:
        """Runs the engine once on tensors that are on its GPU, and leaves the outputs there.

        Nothing is copied through the host. A tensor whose address is a multiple of 256 is read
        where it lies; any other, and every one where a CUDA graph is replayed, is copied on the
        GPU.

        Args:
            feeds: For each input a C-contiguous tensor with ``__dlpack__`` (torch, CuPy, JAX) or
                ``__cuda_array_interface__``, of the input's type and shape.

        Returns:
            The outputs by name, complete: ``torch.from_dlpack(output)`` takes one as it is.

        Raises:
            DataError: A feed is missing, not an input, not on this GPU, not contiguous, or of a
                wrong type or shape.
            UsageError: The runner is closed.
            StageError: The engine failed.
        """
        check_names(self.inputs, feeds)
        with self._lanes.lane() as lane:
            taken = {name: device_feed(name, feeds[name], lane.stream) for name in feeds}
            for spec in self.inputs:
                check_form(spec, taken[spec.name].dtype, taken[spec.name].shape)
            self._signature.profile_for(tuple(taken[spec.name].shape for spec in self.inputs))
            results, self._last.device_ms = lane.run_resident(taken)
        return results

    def _infer(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        self._signature.profile_for(tuple(feeds[spec.name].shape for spec in self.inputs))
        with self._lanes.lane() as lane:
            results, self._last.device_ms = lane.run(feeds)
        return results

    def _close(self) -> None:
        try:
            self._lanes.close()
            path = self._options.runtime_cache
            if path is not None and self._runtime_cache is not None:
                with self._context.current():
                    kernels = bytes(self._runtime_cache.serialize())
                write_atomic(path, kernels)
        finally:
            self._free()

    def _free(self) -> None:
        # TensorRT's objects go in the order of their need for each other, and all of them before
        # the context that their memory lives in.
        with self._context.current():
            self._lanes.close()
            self._runtime_cache = self._runtime_config = None
            self._engine = None
            self._runtime = None
        self._context.close()

    def _configure(self) -> None:
        """TensorRT for RTX takes its cache and graph strategy for all contexts of an engine."""
        module, cuda_engine, options = self._trt.module, self._engine, self._options
        assert cuda_engine is not None
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

    def _make_execution(self, heard: Heard) -> Execution:
        cuda_engine, runtime_config = self._engine, self._runtime_config
        assert cuda_engine is not None
        if runtime_config is not None:
            execution = cuda_engine.create_execution_context(runtime_config)
        else:
            execution = cuda_engine.create_execution_context()
        if execution is None:
            raise StageError(
                f"TensorRT made no execution context: {heard.reason()}.",
                hint="The GPU may be out of memory; build with a smaller max_batch, or run with "
                "fewer contexts.",
            )
        return Execution(execution)
