"""CUDA for the TensorRT runner: the few driver functions it needs, through ctypes on libcuda.

The driver library comes with every NVIDIA driver, so running an engine needs neither torch nor
the CUDA toolkit. Names and semantics are those of the CUDA Driver API reference. Not yet run on a
GPU: the tests drive this module with a stand-in library that keeps "device" memory on the host.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from edgeres.errors import BackendMissingError, StageError

LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
_OUT_OF_MEMORY = 2
_COMPUTE_CAPABILITY_MAJOR = 75
_COMPUTE_CAPABILITY_MINOR = 76
_CAPTURE_THREAD_LOCAL = 1
DRIVER_HINT = "Run it on a machine with an NVIDIA GPU and driver."

_pointer = ctypes.c_void_p
_out = ctypes.POINTER(ctypes.c_void_p)
_int_out = ctypes.POINTER(ctypes.c_int)
# CUdeviceptr is a 64-bit integer; handles (context, stream, event, graph) are pointers.
_SIGNATURES: dict[str, tuple[object, ...]] = {
    "cuInit": (ctypes.c_uint,),
    "cuDriverGetVersion": (_int_out,),
    "cuDeviceGetCount": (_int_out,),
    "cuDeviceGet": (_int_out, ctypes.c_int),
    "cuDeviceGetName": (ctypes.c_char_p, ctypes.c_int, ctypes.c_int),
    "cuDeviceGetUuid": (ctypes.c_char_p, ctypes.c_int),
    "cuDeviceGetAttribute": (_int_out, ctypes.c_int, ctypes.c_int),
    "cuDevicePrimaryCtxRetain": (_out, ctypes.c_int),
    "cuDevicePrimaryCtxRelease_v2": (ctypes.c_int,),
    "cuCtxSetCurrent": (_pointer,),
    "cuMemAlloc_v2": (ctypes.POINTER(ctypes.c_uint64), ctypes.c_size_t),
    "cuMemFree_v2": (ctypes.c_uint64,),
    "cuMemcpyHtoDAsync_v2": (ctypes.c_uint64, _pointer, ctypes.c_size_t, _pointer),
    "cuMemcpyDtoHAsync_v2": (_pointer, ctypes.c_uint64, ctypes.c_size_t, _pointer),
    "cuStreamCreate": (_out, ctypes.c_uint),
    "cuStreamSynchronize": (_pointer,),
    "cuStreamDestroy_v2": (_pointer,),
    "cuEventCreate": (_out, ctypes.c_uint),
    "cuEventRecord": (_pointer, _pointer),
    "cuEventElapsedTime": (ctypes.POINTER(ctypes.c_float), _pointer, _pointer),
    "cuEventDestroy_v2": (_pointer,),
    "cuStreamBeginCapture_v2": (_pointer, ctypes.c_int),
    "cuStreamEndCapture": (_pointer, _out),
    "cuGraphInstantiateWithFlags": (_out, _pointer, ctypes.c_ulonglong),
    "cuGraphLaunch": (_pointer, _pointer),
    "cuGraphExecDestroy": (_pointer,),
    "cuGraphDestroy": (_pointer,),
    "cuGetErrorString": (ctypes.c_int, ctypes.POINTER(ctypes.c_char_p)),
}


@dataclass(frozen=True)
class Gpu:
    """A GPU as the driver describes it; ``driver`` is the CUDA version that the driver offers."""

    ordinal: int
    name: str
    compute_capability: str
    driver: str
    uuid: str


def load_driver() -> ctypes.CDLL:
    """Loads and starts the CUDA driver.

    Raises:
        BackendMissingError: No driver library, or a driver that does not start (no GPU).
    """
    try:
        library = ctypes.CDLL(LIBRARY)
        for name, arguments in _SIGNATURES.items():
            function = getattr(library, name)
            function.argtypes = list(arguments)
            function.restype = ctypes.c_int
    except (OSError, AttributeError) as error:
        raise BackendMissingError(f"no NVIDIA driver here: {error}.", hint=DRIVER_HINT) from error
    code = library.cuInit(0)
    if code:
        raise BackendMissingError(
            f"the NVIDIA driver does not start: {_error_text(library, code)}.", hint=DRIVER_HINT
        )
    return library


def list_gpus() -> tuple[Gpu, ...]:
    """All GPUs that the driver shows, in the driver's order.

    Raises:
        BackendMissingError: There is no driver, or it shows no GPU.
    """
    library = load_driver()
    version, count = ctypes.c_int(), ctypes.c_int()
    _check(library, library.cuDriverGetVersion(ctypes.byref(version)), "cuDriverGetVersion")
    _check(library, library.cuDeviceGetCount(ctypes.byref(count)), "cuDeviceGetCount")
    if count.value == 0:
        raise BackendMissingError("the NVIDIA driver shows no GPU.", hint=DRIVER_HINT)
    driver = f"{version.value // 1000}.{version.value % 1000 // 10}"
    gpus = []
    for ordinal in range(count.value):
        device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
        name, identity = ctypes.create_string_buffer(256), ctypes.create_string_buffer(16)
        _check(library, library.cuDeviceGet(ctypes.byref(device), ordinal), "cuDeviceGet")
        _check(library, library.cuDeviceGetName(name, 256, device.value), "cuDeviceGetName")
        _check(library, library.cuDeviceGetUuid(identity, device.value), "cuDeviceGetUuid")
        for out, attribute in (
            (major, _COMPUTE_CAPABILITY_MAJOR),
            (minor, _COMPUTE_CAPABILITY_MINOR),
        ):
            code = library.cuDeviceGetAttribute(ctypes.byref(out), attribute, device.value)
            _check(library, code, "cuDeviceGetAttribute")
        capability = f"{major.value}.{minor.value}"
        told = name.value.decode(errors="replace")
        uuid = f"GPU-{UUID(bytes=identity.raw)}"  # as `nvidia-smi -L` writes it
        gpus.append(Gpu(ordinal, told, capability, driver, uuid))
    return tuple(gpus)


class CudaSession:
    """One GPU's primary context with a stream, device buffers, two events and recorded graphs.

    The driver keeps one current context per thread, so every method that reaches the device first
    makes its own context current; a session may be used from one thread at a time.
    """

    def __init__(self, ordinal: int) -> None:
        self._library = load_driver()
        self._device = ctypes.c_int()
        self._buffers: list[int] = []
        self._events: list[ctypes.c_void_p] = []
        self._graphs: list[ctypes.c_void_p] = []
        self._stream = ctypes.c_void_p()
        self._context = ctypes.c_void_p()
        self._call("cuDeviceGet", ctypes.byref(self._device), ordinal)
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), self._device.value)
        try:
            self._enter()
            self._call("cuStreamCreate", ctypes.byref(self._stream), 1)
            for _ in range(2):
                event = ctypes.c_void_p()
                self._call("cuEventCreate", ctypes.byref(event), 0)
                self._events.append(event)
        except BaseException:
            self.close()
            raise

    @property
    def stream(self) -> int:
        """The stream's handle, as TensorRT takes it."""
        return self._stream.value or 0

    def allocate(self, size_bytes: int) -> int:
        """A device buffer of at least one byte, freed with the session; returns its address."""
        self._enter()
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), max(1, size_bytes))
        self._buffers.append(address.value)
        return address.value

    def upload(self, address: int, array: NDArray[np.generic]) -> None:
        """Queues the copy of a C-contiguous array to the device; keep it alive until a wait."""
        self._enter()
        pointer = ctypes.c_void_p(array.ctypes.data)
        self._call("cuMemcpyHtoDAsync_v2", address, pointer, array.nbytes, self._stream)

    def download(self, address: int, array: NDArray[np.generic]) -> None:
        """Queues the copy of device memory into a C-contiguous array; read it after a wait."""
        self._enter()
        pointer = ctypes.c_void_p(array.ctypes.data)
        self._call("cuMemcpyDtoHAsync_v2", pointer, address, array.nbytes, self._stream)

    def wait(self) -> None:
        """Returns when all queued work is done."""
        self._enter()
        self._call("cuStreamSynchronize", self._stream)

    def mark(self, which: int) -> None:
        """Queues time mark 0 or 1 into the stream."""
        self._enter()
        self._call("cuEventRecord", self._events[which], self._stream)

    def elapsed_ms(self) -> float:
        """Milliseconds on the device between mark 0 and mark 1, after a wait."""
        self._enter()
        elapsed = ctypes.c_float()
        self._call("cuEventElapsedTime", ctypes.byref(elapsed), *self._events)
        return float(elapsed.value)

    def record(self, enqueue: Callable[[], None]) -> int:
        """Records what ``enqueue`` puts into the stream as a CUDA graph; returns its handle."""
        self._enter()
        graph, executable = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuStreamBeginCapture_v2", self._stream, _CAPTURE_THREAD_LOCAL)
        try:
            enqueue()
        finally:
            self._call("cuStreamEndCapture", self._stream, ctypes.byref(graph))
        try:
            self._call("cuGraphInstantiateWithFlags", ctypes.byref(executable), graph, 0)
        finally:
            self._call("cuGraphDestroy", graph)
        self._graphs.append(executable)
        return executable.value or 0

    def replay(self, graph: int) -> None:
        """Queues a recorded graph."""
        self._enter()
        self._call("cuGraphLaunch", ctypes.c_void_p(graph), self._stream)

    def close(self) -> None:
        """Frees everything; a second call does nothing. Errors here have no one to act on them."""
        if not self._context:
            return
        library = self._library
        library.cuCtxSetCurrent(self._context)
        for graph in self._graphs:
            library.cuGraphExecDestroy(graph)
        for event in self._events:
            library.cuEventDestroy_v2(event)
        for address in self._buffers:
            library.cuMemFree_v2(address)
        if self._stream:
            library.cuStreamDestroy_v2(self._stream)
        library.cuDevicePrimaryCtxRelease_v2(self._device.value)
        self._context = ctypes.c_void_p()
        self._graphs, self._events, self._buffers = [], [], []

    def _enter(self) -> None:
        if not self._context:
            raise StageError("the TensorRT runner is closed.", hint="Load the engine again.")
        self._call("cuCtxSetCurrent", self._context)

    def _call(self, name: str, *arguments: object) -> None:
        _check(self._library, getattr(self._library, name)(*arguments), name)


def _check(library: ctypes.CDLL, code: int, function: str) -> None:
    if code == _OUT_OF_MEMORY:
        raise StageError(
            f"the GPU is out of memory ({function}).",
            hint="Use a smaller batch (max_batch), or free memory on the GPU.",
        )
    if code:
        raise StageError(f"CUDA: {function} failed: {_error_text(library, code)}.")


def _error_text(library: ctypes.CDLL, code: int) -> str:
    text = ctypes.c_char_p()
    library.cuGetErrorString(code, ctypes.byref(text))
    return f"error {code}" + (f", {text.value.decode(errors='replace')}" if text.value else "")
