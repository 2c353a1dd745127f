"""One stream of a TensorRT engine with what a run needs: execution contexts, buffers, graphs.

Several lanes share an engine and run at the same time; each is used by one thread at a time. Not
yet run on a GPU: the tests drive it with stand-ins for TensorRT and for the CUDA driver.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress

from edgeres.backends.base import Array
from edgeres.backends.tensorrt.api import Trt
from edgeres.backends.tensorrt.cuda import CudaSession
from edgeres.backends.tensorrt.execution import Execution
from edgeres.backends.tensorrt.gpus import Gpu
from edgeres.backends.tensorrt.graphs import GraphCache, Replay
from edgeres.backends.tensorrt.log import Heard, listening
from edgeres.backends.tensorrt.ports import Port
from edgeres.backends.tensorrt.resident import DeviceArray, DeviceFeed
from edgeres.backends.tensorrt.signature import Shape, Shapes, Signature
from edgeres.errors import DataError, StageError

GRAPH_BATCH = 16
"""Largest batch that is replayed as a CUDA graph: with more work in a run the time to launch its
kernels is hidden, and every recorded shape takes memory."""

_ALIGNMENT = 256
"""Bytes; TensorRT reads and writes tensors only at addresses that are multiples of it."""


class Lane:
    """A stream with an execution context for each profile and buffers for the largest shapes."""

    def __init__(
        self,
        trt: Trt,
        make_execution: Callable[[Heard], Execution],
        signature: Signature,
        gpu: Gpu,
        *,
        cuda_graph: bool,
    ) -> None:
        """Allocates.

        Args:
            trt: The imported TensorRT.
            make_execution: Makes an execution context of the engine; the lane owns it then.
            signature: Of the engine.
            gpu: Where it runs.
            cuda_graph: Replay small batches as one CUDA graph.

        Raises:
            BackendMissingError: There is no driver.
            StageError: The GPU has too little memory, TensorRT refuses its own profile, or the
                size of an output depends on the data.
        """
        self._trt = trt
        self._make = make_execution
        self._signature = signature
        self._gpu = gpu
        # TensorRT for RTX records graphs itself; shapes without end would be recorded without end.
        self._cuda_graph = cuda_graph and not trt.is_rtx and not signature.is_open
        self._executions: list[Execution] = []
        self._ports: dict[str, Port] = {}
        self._session = CudaSession(gpu.ordinal)
        self._graphs = GraphCache(self._session)
        try:
            with self._session.current(), listening(trt) as heard:
                for profile in range(len(signature.profiles)):
                    self._executions.append(self._new_execution(profile, heard))
                self._allocate()
        except BaseException:
            self.close()
            raise

    @property
    def stream(self) -> int:
        """Handle of the stream that it runs on."""
        return self._session.stream

    def run(self, feeds: Mapping[str, Array]) -> tuple[dict[str, Array], float]:
        """Runs checked feeds once.

        Args:
            feeds: An array for each input, of a shape that a profile takes.

        Returns:
            The outputs, and the time on the device alone in milliseconds: without the copies, and
            without what the first run of a shape does more.

        Raises:
            StageError: TensorRT or CUDA failed.
        """
        session = self._session
        with session.current(), listening(self._trt) as heard:
            for name, port in self._ports.items():
                if name in feeds:
                    port.fill(feeds[name])
            shapes = tuple(feeds[spec.name].shape for spec in self._signature.inputs)
            replay = self._replay(shapes, heard)
            sizes = self._output_shapes(shapes, replay)
            self._queue(shapes, replay, self._own_addresses(), heard)
            for name, shape in sizes.items():
                self._ports[name].fetch(shape)
            session.wait()
            values = {name: self._ports[name].values(shape) for name, shape in sizes.items()}
            return values, session.elapsed_ms()

    def run_resident(self, feeds: Mapping[str, DeviceFeed]) -> tuple[dict[str, DeviceArray], float]:
        """As :meth:`run`, with inputs and outputs that stay on the GPU; complete on return.

        Raises:
            DataError: A feed lies on another GPU.
            StageError: TensorRT or CUDA failed.
        """
        session = self._session
        with session.current(), listening(self._trt) as heard:
            for name, feed in feeds.items():
                if not session.owns(feed.address):
                    raise DataError(
                        f"input {name}: the tensor does not lie on cuda:{self._gpu.ordinal}.",
                        hint="Move it there, or load the engine where it lies.",
                    )
            try:
                return self._run_resident(feeds, heard), session.elapsed_ms()
            except BaseException:
                with suppress(StageError):
                    session.wait()  # nothing may read the caller's memory any more
                raise

    def _run_resident(
        self, feeds: Mapping[str, DeviceFeed], heard: Heard
    ) -> dict[str, DeviceArray]:
        session = self._session
        shapes = tuple(feeds[spec.name].shape for spec in self._signature.inputs)
        replay, addresses = self._replay(shapes, heard), self._own_addresses()
        for name, feed in feeds.items():
            if feed.stream is not None:
                session.wait_for(feed.stream)
            if replay is None and feed.address % _ALIGNMENT == 0:
                addresses[name] = feed.address
            else:  # a graph reads and writes where it was recorded
                session.copy(addresses[name], feed.address, feed.nbytes)
        sizes = self._output_shapes(shapes, replay)
        made = {
            spec.name: DeviceArray(self._gpu.ordinal, sizes[spec.name], spec.dtype)
            for spec in self._signature.outputs
        }
        if replay is None:
            addresses |= {name: array.address for name, array in made.items()}
        self._queue(shapes, replay, addresses, heard)
        if replay is not None:
            for name, array in made.items():
                session.copy(array.address, addresses[name], array.nbytes)
        session.wait()
        return made

    def close(self) -> None:
        """Frees everything; TensorRT's objects go before the memory that they use."""
        if self._session.is_open:
            with self._session.current():
                self._graphs.clear()
                for held in self._executions:
                    held.release()
                self._executions.clear()
            self._session.close()

    def _new_execution(self, profile: int, heard: Heard) -> Execution:
        """An execution context for one profile.

        Only an engine's first context has a profile by itself; NVIDIA's reference asks for every
        other one to be given its own.
        """
        made = self._make(heard)
        if self._signature.is_dynamic:
            chosen = made.choose_profile(profile, self._session.stream)
            if not chosen:
                made.release()
                raise StageError(f"TensorRT refused its own profile: {heard.reason()}.")
            self._session.wait()
        return made

    def _allocate(self) -> None:
        """Buffers for each tensor, as large as the profiles allow."""
        inputs, outputs = self._signature.inputs, self._signature.outputs
        largest = dict.fromkeys((spec.name for spec in (*inputs, *outputs)), 0)
        for number, profile in enumerate(self._signature.profiles):
            shapes = tuple(profile[spec.name][1] for spec in inputs)
            sizes = self._set_shapes(self._executions[number], shapes)
            sizes |= {spec.name: shape for spec, shape in zip(inputs, shapes, strict=True)}
            for name, shape in sizes.items():
                largest[name] = max(largest[name], math.prod(shape))
        shared = self._gpu.shares_memory
        for spec in (*inputs, *outputs):
            self._ports[spec.name] = Port(self._session, spec, largest[spec.name], shared=shared)

    def _set_shapes(self, held: Execution, shapes: Shapes) -> dict[str, Shape]:
        """Tells an execution context the inputs' shapes; returns those of the outputs."""
        for spec, shape in zip(self._signature.inputs, shapes, strict=True):
            if not held.set_shape(spec.name, shape):
                raise StageError(f"TensorRT refused shape {shape} for input {spec.name!r}.")
        sizes = {spec.name: held.shape_of(spec.name) for spec in self._signature.outputs}
        for name, shape in sizes.items():
            if min(shape, default=0) < 0:
                raise StageError(
                    f"the size of output {name!r} depends on the data {shape}.",
                    hint="Only outputs whose size follows from the inputs' sizes can be read.",
                )
        return sizes

    def _output_shapes(self, shapes: Shapes, replay: Replay | None) -> dict[str, Shape]:
        if replay is not None:
            return replay.output_shapes
        return self._set_shapes(self._executions[self._signature.profile_for(shapes)], shapes)

    def _own_addresses(self) -> dict[str, int]:
        return {name: port.address for name, port in self._ports.items()}

    def _queue(
        self, shapes: Shapes, replay: Replay | None, addresses: Mapping[str, int], heard: Heard
    ) -> None:
        """Queues the work between the two time marks; the shapes of a plain run are set."""
        held = self._executions[self._signature.profile_for(shapes)]
        if replay is None:
            _bind(held, addresses)
        self._session.mark(0)
        if replay is None:
            self._execute(held, heard)
        else:
            self._session.replay(replay.graph)
        self._session.mark(1)

    def _replay(self, shapes: Shapes, heard: Heard) -> Replay | None:
        """The CUDA graph for these shapes, recorded if need be; ``None`` for a plain run."""
        small = all(shape[0] <= GRAPH_BATCH for shape in shapes if shape)
        if not self._cuda_graph or not small:
            return None
        if shapes not in self._graphs:
            try:
                self._graphs.put(shapes, self._record(shapes, heard))
            except StageError as error:
                heard.errors.clear()
                self._graphs.put(shapes, None)
                warnings.warn(
                    f"shapes {shapes} run without a CUDA graph: {error.message}", stacklevel=2
                )
        return self._graphs.get(shapes)

    def _record(self, shapes: Shapes, heard: Heard) -> Replay:
        held = self._new_execution(self._signature.profile_for(shapes), heard)
        try:
            sizes = self._set_shapes(held, shapes)
            _bind(held, self._own_addresses())
            # The first run of a shape may allocate, which a recording cannot hold.
            self._execute(held, heard)
            self._session.wait()
            graph = self._session.record(lambda: self._execute(held, heard))
            return Replay(held, graph, sizes)
        except BaseException:
            held.release()
            raise

    def _execute(self, held: Execution, heard: Heard) -> None:
        if not held.enqueue(self._session.stream):
            raise StageError(f"TensorRT could not run: {heard.reason()}.")


def _bind(held: Execution, addresses: Mapping[str, int]) -> None:
    """Tells an execution context where its tensors lie."""
    for name, address in addresses.items():
        if not held.bind(name, address):
            raise StageError(f"TensorRT refused the address of {name!r}.")
