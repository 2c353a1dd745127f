"""One execution context of a TensorRT engine with what a run needs: a stream, buffers, graphs.

Several lanes share an engine and run at the same time; each is used by one thread at a time. Not
yet run on a GPU: the tests drive it with stand-ins for TensorRT and for the CUDA driver.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeres.backends.base import Array
from edgeres.backends.tensorrt.api import Trt
from edgeres.backends.tensorrt.cuda import CudaSession
from edgeres.backends.tensorrt.log import TrtLog
from edgeres.errors import StageError
from edgeres.graph.summary import TensorSpec

GRAPH_BATCH = 16
"""Largest batch that is replayed as a CUDA graph: with more work in a run the time to launch its
kernels is hidden, and every recorded shape takes memory."""


@dataclass(frozen=True)
class Signature:
    """What an engine takes and gives, and the smallest and largest shape of each input."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    limits: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]


class Lane:
    """An execution context that runs, with device buffers for the largest shapes."""

    def __init__(
        self,
        trt: Trt,
        execution: Any,
        signature: Signature,
        ordinal: int,
        log: TrtLog,
        *,
        cuda_graph: bool,
    ) -> None:
        """Allocates.

        Args:
            trt: The imported TensorRT.
            execution: The execution context; this lane owns it now.
            signature: Of the engine.
            ordinal: Which GPU.
            log: Of the runtime, for messages.
            cuda_graph: Replay small batches as one CUDA graph.

        Raises:
            BackendMissingError: There is no driver.
            StageError: The GPU has too little memory, or TensorRT refuses its own profile.
        """
        self._trt = trt
        self._execution: Any | None = execution
        self._signature = signature
        self._log = log
        self._cuda_graph = cuda_graph and not trt.is_rtx  # RTX records graphs itself
        self._graphs: dict[tuple[tuple[int, ...], ...], int] = {}
        self._addresses: dict[str, int] = {}
        self._session = CudaSession(ordinal)
        try:
            self._allocate(execution)
        except BaseException:
            self.close()
            raise

    def run(self, feeds: Mapping[str, Array]) -> tuple[dict[str, Array], float]:
        """Runs checked feeds once.

        Args:
            feeds: An array for each input, of a shape within the engine's limits.

        Returns:
            The outputs, and the time on the device alone in milliseconds, without the copies.

        Raises:
            StageError: TensorRT or CUDA failed.
        """
        session, execution = self._session, self._execution
        assert execution is not None
        # Uploads run in the background, so the arrays must live until the wait below.
        arrays = {
            spec.name: np.ascontiguousarray(feeds[spec.name]) for spec in self._signature.inputs
        }
        for name, array in arrays.items():
            if not execution.set_input_shape(name, array.shape):
                raise StageError(f"TensorRT refused shape {array.shape} for input {name!r}.")
            session.upload(self._addresses[name], array)
        results: dict[str, Array] = {
            spec.name: np.empty(tuple(execution.get_tensor_shape(spec.name)), spec.dtype)
            for spec in self._signature.outputs
        }
        session.mark(0)
        self._enqueue(tuple(array.shape for array in arrays.values()))
        session.mark(1)
        for name, result in results.items():
            session.download(self._addresses[name], result)
        session.wait()
        return results, session.elapsed_ms()

    def close(self) -> None:
        """Frees everything; TensorRT's object goes before the memory that it lives in."""
        self._execution = None
        self._session.close()

    def _allocate(self, execution: Any) -> None:
        """One device buffer for each tensor, as large as the profile allows."""
        inputs, outputs = self._signature.inputs, self._signature.outputs
        for spec in inputs:
            if not execution.set_input_shape(spec.name, self._signature.limits[spec.name][1]):
                raise StageError(f"TensorRT refused its own profile for input {spec.name!r}.")
        for spec in (*inputs, *outputs):
            largest = tuple(int(size) for size in execution.get_tensor_shape(spec.name))
            size = int(np.prod(largest, dtype=np.int64)) * np.dtype(spec.dtype).itemsize
            self._addresses[spec.name] = self._session.allocate(size)
            execution.set_tensor_address(spec.name, self._addresses[spec.name])

    def _enqueue(self, shapes: tuple[tuple[int, ...], ...]) -> None:
        """Queues the work, as a recorded CUDA graph where that is asked for and pays."""
        session = self._session
        small = all(shape[0] <= GRAPH_BATCH for shape in shapes if shape)
        if not self._cuda_graph or not small:
            self._execute()
            return
        if shapes not in self._graphs:
            # The first run of a shape may allocate, which a recording cannot hold.
            self._execute()
            session.wait()
            self._graphs[shapes] = session.record(self._execute)
        session.replay(self._graphs[shapes])

    def _execute(self) -> None:
        execution = self._execution
        if execution is None or not execution.execute_async_v3(self._session.stream):
            raise StageError(
                f"TensorRT could not run: {self._log.first_error() or 'no reason given'}."
            )
