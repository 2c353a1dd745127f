"""CUDA for the TensorRT runner: a context that comes and goes, a stream, memory and graphs.

Not yet run on a GPU: the tests drive this module with a stand-in driver that keeps "device" memory
on the host.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from edgeres.backends.tensorrt.driver import call, load_driver
from edgeres.errors import StageError

_CAPTURE_THREAD_LOCAL = 1
_NON_BLOCKING = 1
_DEVICE_MAP = 2
_UNTIMED = 2
_DEVICE_ORDINAL = 9


class CudaContext:
    """The primary context of one GPU, the one that torch and the CUDA runtime use too.

    The driver keeps a stack of contexts for each thread. :meth:`current` pushes this one and pops
    it again, so what the caller had current is current afterwards, whatever happens between.
    """

    def __init__(self, ordinal: int) -> None:
        """Retains the context.

        Raises:
            BackendMissingError: There is no driver.
            StageError: There is no such GPU, or it cannot be used.
        """
        self.library = load_driver()
        self._device = ctypes.c_int()
        self._handle = ctypes.c_void_p()
        call(self.library, "cuDeviceGet", ctypes.byref(self._device), ordinal)
        handle = ctypes.byref(self._handle)
        call(self.library, "cuDevicePrimaryCtxRetain", handle, self._device.value)

    @contextmanager
    def current(self) -> Iterator[None]:
        """Makes the context current for this thread as long as the block lasts.

        Raises:
            StageError: The context was released, or CUDA failed.
        """
        if not self._handle:
            raise StageError("the TensorRT runner is closed.", hint="Load the engine again.")
        call(self.library, "cuCtxPushCurrent_v2", self._handle)
        try:
            yield
        finally:
            self.library.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))

    @property
    def is_open(self) -> bool:
        """Whether the context is still retained."""
        return bool(self._handle)

    def close(self) -> None:
        """Releases the context; a second call does nothing."""
        if self._handle:
            self._handle = ctypes.c_void_p()
            self.library.cuDevicePrimaryCtxRelease_v2(self._device.value)


@contextmanager
def on_gpu(ordinal: int) -> Iterator[None]:
    """Makes a GPU the current one of this thread as long as the block lasts.

    Raises:
        BackendMissingError: There is no driver.
        StageError: There is no such GPU, or it cannot be used.
    """
    context = CudaContext(ordinal)
    try:
        with context.current():
            yield
    finally:
        context.close()


class CudaSession:
    """A stream of one GPU with device and host buffers, time marks and recorded graphs.

    A session may be used from one thread at a time, inside of ``with session.current():``.
    """

    def __init__(self, ordinal: int) -> None:
        """Makes the stream.

        Raises:
            BackendMissingError: There is no driver.
            StageError: CUDA failed.
        """
        self._context = CudaContext(ordinal)
        self._library = self._context.library
        self._ordinal = ordinal
        self._buffers: list[int] = []
        self._pinned: list[int] = []
        self._events: list[ctypes.c_void_p] = []
        self._stream = ctypes.c_void_p()
        self.current = self._context.current
        try:
            with self.current():
                self._call("cuStreamCreate", ctypes.byref(self._stream), _NON_BLOCKING)
                for flags in (0, 0, _UNTIMED):
                    event = ctypes.c_void_p()
                    self._call("cuEventCreate", ctypes.byref(event), flags)
                    self._events.append(event)
        except BaseException:
            self.close()
            raise

    @property
    def is_open(self) -> bool:
        """Whether it was not closed yet."""
        return self._context.is_open

    @property
    def stream(self) -> int:
        """The stream's handle, as TensorRT takes it."""
        return self._stream.value or 0

    def allocate(self, size_bytes: int) -> int:
        """A device buffer of at least one byte, freed with the session; returns its address."""
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), max(1, size_bytes))
        self._buffers.append(address.value)
        return address.value

    def allocate_pinned(self, size_bytes: int) -> NDArray[np.uint8]:
        """Host memory ``(size_bytes,) uint8`` that the GPU copies from and to by itself.

        Freed with the session: hand out no views of it.
        """
        size_bytes, pointer = max(1, size_bytes), ctypes.c_void_p()
        self._call("cuMemHostAlloc", ctypes.byref(pointer), size_bytes, _DEVICE_MAP)
        self._pinned.append(pointer.value or 0)
        block = (ctypes.c_uint8 * size_bytes).from_address(pointer.value or 0)
        return np.ctypeslib.as_array(block)

    def shared_address(self, pinned: NDArray[np.uint8]) -> int:
        """Where the GPU sees pinned host memory; on a Jetson both use the same memory."""
        address = ctypes.c_uint64()
        pointer = ctypes.c_void_p(pinned.ctypes.data)
        self._call("cuMemHostGetDevicePointer_v2", ctypes.byref(address), pointer, 0)
        return address.value

    def upload(self, address: int, array: NDArray[np.generic]) -> None:
        """Queues the copy of a C-contiguous array to the device; keep it alive until a wait."""
        pointer = ctypes.c_void_p(array.ctypes.data)
        self._call("cuMemcpyHtoDAsync_v2", address, pointer, array.nbytes, self._stream)

    def download(self, address: int, array: NDArray[np.generic]) -> None:
        """Queues the copy of device memory into a C-contiguous array; read it after a wait."""
        pointer = ctypes.c_void_p(array.ctypes.data)
        self._call("cuMemcpyDtoHAsync_v2", pointer, address, array.nbytes, self._stream)

    def copy(self, target: int, source: int, size_bytes: int) -> None:
        """Queues a copy within the device."""
        self._call("cuMemcpyDtoDAsync_v2", target, source, size_bytes, self._stream)

    def wait(self) -> None:
        """Returns when all queued work is done."""
        self._call("cuStreamSynchronize", self._stream)

    def wait_for(self, stream: int) -> None:
        """Lets what is queued from now on run after what another stream holds now."""
        event = self._events[2]
        self._call("cuEventRecord", event, ctypes.c_void_p(stream))
        self._call("cuStreamWaitEvent", self._stream, event, 0)

    def owns(self, address: int) -> bool:
        """Whether an address is memory of this GPU."""
        ordinal = ctypes.c_int(-1)
        answer = ctypes.cast(ctypes.byref(ordinal), ctypes.c_void_p)
        code = self._library.cuPointerGetAttribute(answer, _DEVICE_ORDINAL, address)
        return code == 0 and ordinal.value == self._ordinal

    def mark(self, which: int) -> None:
        """Queues time mark 0 or 1 into the stream."""
        self._call("cuEventRecord", self._events[which], self._stream)

    def elapsed_ms(self) -> float:
        """Milliseconds on the device between mark 0 and mark 1, after a wait."""
        elapsed = ctypes.c_float()
        self._call("cuEventElapsedTime", ctypes.byref(elapsed), *self._events[:2])
        return float(elapsed.value)

    def record(self, enqueue: Callable[[], None]) -> int:
        """Records what ``enqueue`` puts into the stream as a CUDA graph; returns its handle.

        Raises:
            EdgeResError: What ``enqueue`` raised: that is the reason, not how the recording ended.
            StageError: The work cannot be recorded.
        """
        graph, executable = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuStreamBeginCapture_v2", self._stream, _CAPTURE_THREAD_LOCAL)
        try:
            enqueue()
        except BaseException:
            # A broken recording must be ended before the stream can be used again.
            self._library.cuStreamEndCapture(self._stream, ctypes.byref(graph))
            if graph:
                self._library.cuGraphDestroy(graph)
            raise
        self._call("cuStreamEndCapture", self._stream, ctypes.byref(graph))
        try:
            self._call("cuGraphInstantiateWithFlags", ctypes.byref(executable), graph, 0)
        finally:
            self._library.cuGraphDestroy(graph)
        return executable.value or 0

    def replay(self, graph: int) -> None:
        """Queues a recorded graph."""
        self._call("cuGraphLaunch", ctypes.c_void_p(graph), self._stream)

    def drop_graph(self, graph: int) -> None:
        """Frees a recorded graph; no run of it may be under way."""
        self._library.cuGraphExecDestroy(ctypes.c_void_p(graph))

    def close(self) -> None:
        """Frees everything; a second call does nothing. Errors here have no one to act on them."""
        if not self.is_open:
            return
        library = self._library
        with self.current():
            for event in self._events:
                library.cuEventDestroy_v2(event)
            for address in self._buffers:
                library.cuMemFree_v2(address)
            for pointer in self._pinned:
                library.cuMemFreeHost(ctypes.c_void_p(pointer))
            if self._stream:
                library.cuStreamDestroy_v2(self._stream)
        self._events, self._buffers, self._pinned = [], [], []
        self._stream = ctypes.c_void_p()
        self._context.close()

    def _call(self, name: str, *arguments: object) -> None:
        call(self._library, name, *arguments)
