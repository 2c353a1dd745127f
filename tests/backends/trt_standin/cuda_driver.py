# ruff: noqa: N802 - the driver's functions keep their own names
"""A stand-in for the CUDA driver: device memory is the host's, a stream runs when waited for.

As in the real one, every thread has a stack of contexts, a call that needs a context takes the top
of it, a device's primary context lives as long as someone retains it, and a thread that has a
destroyed context on top keeps it there.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

_int_out = ctypes.POINTER(ctypes.c_int)
_handle_out = ctypes.POINTER(ctypes.c_void_p)
_address_out = ctypes.POINTER(ctypes.c_ulonglong)
_handle = ctypes.c_void_p
# Prototypes as in the CUDA Driver API reference, written down apart from the code under test.
PROTOTYPES: dict[str, tuple[Any, ...]] = {
    "cuInit": (ctypes.c_uint,),
    "cuDriverGetVersion": (_int_out,),
    "cuDeviceGetCount": (_int_out,),
    "cuDeviceGet": (_int_out, ctypes.c_int),
    "cuDeviceGetName": (ctypes.POINTER(ctypes.c_char), ctypes.c_int, ctypes.c_int),
    "cuDeviceGetUuid": (ctypes.POINTER(ctypes.c_char), ctypes.c_int),
    "cuDeviceGetAttribute": (_int_out, ctypes.c_int, ctypes.c_int),
    "cuDeviceTotalMem_v2": (ctypes.POINTER(ctypes.c_size_t), ctypes.c_int),
    "cuDevicePrimaryCtxRetain": (_handle_out, ctypes.c_int),
    "cuDevicePrimaryCtxRelease_v2": (ctypes.c_int,),
    "cuCtxPushCurrent_v2": (_handle,),
    "cuCtxPopCurrent_v2": (_handle_out,),
    "cuMemAlloc_v2": (_address_out, ctypes.c_size_t),
    "cuMemFree_v2": (ctypes.c_ulonglong,),
    "cuMemHostAlloc": (_handle_out, ctypes.c_size_t, ctypes.c_uint),
    "cuMemFreeHost": (_handle,),
    "cuMemHostGetDevicePointer_v2": (_address_out, _handle, ctypes.c_uint),
    "cuMemcpyHtoDAsync_v2": (ctypes.c_ulonglong, _handle, ctypes.c_size_t, _handle),
    "cuMemcpyDtoHAsync_v2": (_handle, ctypes.c_ulonglong, ctypes.c_size_t, _handle),
    "cuMemcpyDtoDAsync_v2": (ctypes.c_ulonglong, ctypes.c_ulonglong, ctypes.c_size_t, _handle),
    "cuPointerGetAttribute": (_handle, ctypes.c_int, ctypes.c_ulonglong),
    "cuStreamCreate": (_handle_out, ctypes.c_uint),
    "cuStreamSynchronize": (_handle,),
    "cuStreamWaitEvent": (_handle, _handle, ctypes.c_uint),
    "cuStreamDestroy_v2": (_handle,),
    "cuEventCreate": (_handle_out, ctypes.c_uint),
    "cuEventRecord": (_handle, _handle),
    "cuEventElapsedTime": (ctypes.POINTER(ctypes.c_float), _handle, _handle),
    "cuEventDestroy_v2": (_handle,),
    "cuStreamBeginCapture_v2": (_handle, ctypes.c_int),
    "cuStreamEndCapture": (_handle, _handle_out),
    "cuGraphInstantiateWithFlags": (_handle_out, _handle, ctypes.c_ulonglong),
    "cuGraphLaunch": (_handle, _handle),
    "cuGraphExecDestroy": (_handle,),
    "cuGraphDestroy": (_handle,),
    "cuGetErrorString": (ctypes.c_int, ctypes.POINTER(ctypes.c_char_p)),
}
ALIGNMENT = 256
LEGACY_STREAM = 1


class Driver:
    """A CUDA driver whose device memory is the host's and whose stream runs when waited for."""

    def __init__(self) -> None:
        self.gpu = "NVIDIA Stand-In"
        self.capability = (8, 6)
        self.others: dict[int, tuple[str, tuple[int, int]]] = {}
        self.multiprocessors = 14
        self.memory_bytes = 8 << 30
        self.integrated = False
        self.count = 1
        self.fails: dict[str, int] = {}
        self.memory: dict[int, Any] = {}
        self.pinned: dict[int, Any] = {}
        self.handles: dict[int, str] = {}
        self.made: list[str] = []
        self.copies: list[str] = []
        self.launches = 0
        self._stacks = threading.local()
        self._contexts: dict[int, int] = {}  # device to context
        self._retained: dict[int, int] = {}  # device to count
        self._home: dict[int, int] = {}  # memory, stream: device
        self._queues: dict[int, list[Callable[[], None]]] = {LEGACY_STREAM: []}
        self._recording: dict[int, list[Callable[[], None]]] = {}
        self._graphs: dict[int, list[Callable[[], None]]] = {}
        self._clock = 0.0
        self._marks: dict[int, float] = {}
        self._recorded_in: dict[int, int] = {}
        self.library = type("library", (), {})()
        for name, arguments in PROTOTYPES.items():
            kind = ctypes.CFUNCTYPE(ctypes.c_int, *arguments)
            setattr(self.library, name, kind(self._wrapped(name)))

    @property
    def stack(self) -> list[int]:
        """This thread's contexts, the current one last."""
        if not hasattr(self._stacks, "contexts"):
            self._stacks.contexts = []
        contexts: list[int] = self._stacks.contexts
        return contexts

    @property
    def device(self) -> int | None:
        """The device of this thread's current context; ``None`` without a living one."""
        top = self.stack[-1] if self.stack else None
        return next((d for d, context in self._contexts.items() if context == top), None)

    @contextmanager
    def working_on(self, device: int) -> Iterator[None]:
        """As a framework does that has another GPU's context current in this thread."""
        context = ctypes.c_void_p()
        self.library.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)
        self.library.cuCtxPushCurrent_v2(context)
        try:
            yield
        finally:
            self.library.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))
            self.library.cuDevicePrimaryCtxRelease_v2(device)

    def _wrapped(self, name: str) -> Callable[..., int]:
        def call(*arguments: Any) -> int:
            if name in self.fails:
                if name == "cuStreamEndCapture":
                    self._recording.clear()  # also one that fails ends the recording
                return self.fails[name]
            needs_context = name.startswith(("cuMem", "cuStream", "cuEvent", "cuGraph"))
            if needs_context and self.device is None:
                return 201  # CUDA_ERROR_INVALID_CONTEXT
            answer = getattr(self, f"_{name}", lambda *_: None)(*arguments)
            return int(answer or 0)

        return call

    def floats(self, address: int, count: int) -> Any:
        """What a kernel sees: numbers in device memory or in mapped host memory."""
        block = self._block(address)
        assert block is not None, f"{address:#x} is no memory that a kernel can reach"
        start, data = block
        assert address - start + count * 4 <= len(data)
        return np.frombuffer(data, np.float32, count, address - start)

    def _block(self, address: int) -> tuple[int, Any] | None:
        for start, data in (*self.memory.items(), *self.pinned.items()):
            if start <= address < start + len(data):
                return start, data
        return None

    def submit(self, stream: int, work: Callable[[], None]) -> None:
        self._recording.get(stream, self._queues[stream]).append(work)

    def is_recording(self, stream: int) -> bool:
        return stream in self._recording

    def _new(self, out: Any, kind: str) -> int:
        self.made.append(kind)
        handle = 0x1000 + len(self.made)
        self.handles[handle] = kind
        out[0] = handle
        return handle

    def alive(self) -> list[str]:
        memory = ["memory" for _ in self.memory] + ["pinned memory" for _ in self.pinned]
        return [*self.handles.values(), *memory]

    def _drop(self, handle: int) -> None:
        self.handles.pop(handle)

    def _cuDriverGetVersion(self, out: Any) -> None:
        out[0] = 12080

    def _cuDeviceGetCount(self, out: Any) -> None:
        out[0] = self.count

    def _cuDeviceGet(self, out: Any, ordinal: int) -> None:
        out[0] = ordinal

    def _cuDeviceGetName(self, out: Any, size: int, device: int) -> None:
        name = self.others.get(device, (self.gpu,))[0]
        ctypes.memmove(out, name.encode() + b"\0", len(name) + 1)

    def _cuDeviceGetUuid(self, out: Any, device: int) -> None:
        ctypes.memmove(out, bytes([*range(15), device]), 16)

    def _cuDeviceTotalMem_v2(self, out: Any, device: int) -> None:
        out[0] = self.memory_bytes

    def _cuDeviceGetAttribute(self, out: Any, attribute: int, device: int) -> None:
        major, minor = self.others[device][1] if device in self.others else self.capability
        known = {16: self.multiprocessors, 18: int(self.integrated), 75: major, 76: minor}
        out[0] = known[attribute]

    def _cuDevicePrimaryCtxRetain(self, out: Any, device: int) -> None:
        out[0] = self._contexts.get(device) or self._new(out, "context")
        self._contexts[device] = out[0]
        self._retained[device] = self._retained.get(device, 0) + 1

    def _cuDevicePrimaryCtxRelease_v2(self, device: int) -> int:
        if not self._retained.get(device):
            return 201
        self._retained[device] -= 1
        if self._retained[device] == 0:
            self._drop(self._contexts.pop(device))
        return 0

    def _cuCtxPushCurrent_v2(self, context: int) -> int:
        if self.handles.get(context) != "context":
            return 709  # CUDA_ERROR_CONTEXT_IS_DESTROYED
        self.stack.append(context)
        return 0

    def _cuCtxPopCurrent_v2(self, out: Any) -> int:
        if not self.stack:
            return 201
        out[0] = self.stack.pop()
        return 0

    def _cuMemAlloc_v2(self, out: Any, size: int) -> None:
        whole = (ctypes.c_char * (size + ALIGNMENT))()
        offset = -ctypes.addressof(whole) % ALIGNMENT
        buffer = (ctypes.c_char * size).from_buffer(whole, offset)
        out[0] = ctypes.addressof(buffer)
        self.memory[out[0]] = buffer
        self._home[out[0]] = self.device or 0

    def _cuMemFree_v2(self, address: int) -> None:
        del self.memory[address]

    def _cuMemHostAlloc(self, out: Any, size: int, flags: int) -> None:
        self._cuMemAlloc_v2(out, size)
        self.pinned[out[0]] = self.memory.pop(out[0])

    def _cuMemFreeHost(self, address: int) -> None:
        del self.pinned[address]

    def _cuMemHostGetDevicePointer_v2(self, out: Any, address: int, flags: int) -> int:
        if address not in self.pinned:
            return 1
        out[0] = address
        return 0

    def _cuPointerGetAttribute(self, out: Any, attribute: int, address: int) -> int:
        block = self._block(address)
        if block is None:
            return 1  # CUDA_ERROR_INVALID_VALUE: no memory that CUDA knows
        assert attribute == 9, "CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL"
        ctypes.cast(out, _int_out)[0] = self._home[block[0]]
        return 0

    def _cuMemcpyHtoDAsync_v2(self, target: int, source: int, size: int, stream: int) -> int:
        return self._copy("up", target, source, size, stream, self._block(target))

    def _cuMemcpyDtoHAsync_v2(self, target: int, source: int, size: int, stream: int) -> int:
        return self._copy("down", target, source, size, stream, self._block(source))

    def _cuMemcpyDtoDAsync_v2(self, target: int, source: int, size: int, stream: int) -> int:
        if self._block(source) is None:
            return 1
        return self._copy("across", target, source, size, stream, self._block(target))

    def _copy(
        self, kind: str, target: int, source: int, size: int, stream: int | None, device: Any
    ) -> int:
        stream = stream or LEGACY_STREAM
        address = source if kind == "down" else target
        if stream not in self._queues or device is None:
            return 1  # CUDA_ERROR_INVALID_VALUE
        if address + size > device[0] + len(device[1]):
            return 1
        self.copies.append(kind)
        self.submit(stream, lambda: ctypes.memmove(target, source, size))
        return 0

    def _cuStreamCreate(self, out: Any, flags: int) -> None:
        self._queues[self._new(out, "stream")] = []

    def _cuStreamSynchronize(self, stream: int | None) -> int:
        stream = stream or LEGACY_STREAM
        if stream in self._recording:
            return 900  # CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED
        queue, self._queues[stream] = self._queues[stream], []
        for work in queue:
            self._clock += 0.5
            work()
        return 0

    def _cuStreamWaitEvent(self, stream: int, event: int, flags: int) -> None:
        other = self._recorded_in[event]
        self.submit(stream, lambda: self._cuStreamSynchronize(other) and None)

    def _cuStreamDestroy_v2(self, stream: int) -> None:
        self._drop(stream)
        del self._queues[stream]

    def _cuEventCreate(self, out: Any, flags: int) -> None:
        self._new(out, "event")

    def _cuEventRecord(self, event: int, stream: int | None) -> None:
        self._recorded_in[event] = stream or LEGACY_STREAM
        self.submit(stream or LEGACY_STREAM, lambda: self._marks.update({event: self._clock}))

    def _cuEventElapsedTime(self, out: Any, start: int, end: int) -> None:
        out[0] = self._marks[end] - self._marks[start]

    def _cuEventDestroy_v2(self, event: int) -> None:
        self._drop(event)

    def _cuStreamBeginCapture_v2(self, stream: int, mode: int) -> None:
        self._recording[stream] = []

    def _cuStreamEndCapture(self, stream: int, out: Any) -> None:
        self._graphs[self._new(out, "graph")] = self._recording.pop(stream)

    def _cuGraphInstantiateWithFlags(self, out: Any, graph: int, flags: int) -> None:
        self._graphs[self._new(out, "executable graph")] = self._graphs[graph]

    def _cuGraphLaunch(self, graph: int, stream: int) -> None:
        self.launches += 1
        for work in self._graphs[graph]:
            self.submit(stream, work)

    def _cuGraphDestroy(self, graph: int) -> None:
        self._drop(graph)

    def _cuGraphExecDestroy(self, graph: int) -> None:
        self._drop(graph)

    def _cuGetErrorString(self, code: int, out: Any) -> None:
        out[0] = b"a reason"
