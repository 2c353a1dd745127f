# ruff: noqa: N802 - the driver's functions keep their own names
"""A stand-in for the CUDA driver: device memory is the host's, a stream runs when waited for."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np

_int_out = ctypes.POINTER(ctypes.c_int)
_handle_out = ctypes.POINTER(ctypes.c_void_p)
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
    "cuDevicePrimaryCtxRetain": (_handle_out, ctypes.c_int),
    "cuDevicePrimaryCtxRelease_v2": (ctypes.c_int,),
    "cuCtxSetCurrent": (_handle,),
    "cuMemAlloc_v2": (ctypes.POINTER(ctypes.c_ulonglong), ctypes.c_size_t),
    "cuMemFree_v2": (ctypes.c_ulonglong,),
    "cuMemcpyHtoDAsync_v2": (ctypes.c_ulonglong, _handle, ctypes.c_size_t, _handle),
    "cuMemcpyDtoHAsync_v2": (_handle, ctypes.c_ulonglong, ctypes.c_size_t, _handle),
    "cuStreamCreate": (_handle_out, ctypes.c_uint),
    "cuStreamSynchronize": (_handle,),
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


class Driver:
    """A CUDA driver whose device memory is the host's and whose stream runs when waited for."""

    def __init__(self) -> None:
        self.gpu = "NVIDIA Stand-In"
        self.capability = (8, 6)
        self.others: dict[int, tuple[str, tuple[int, int]]] = {}
        self.count = 1
        self.fails: dict[str, int] = {}
        self.memory: dict[int, Any] = {}
        self.handles: dict[int, str] = {}
        self.made: list[str] = []
        self.current = 0
        self.launches = 0
        self._retained = 0
        self._queues: dict[int, list[Callable[[], None]]] = {}
        self._recording: dict[int, list[Callable[[], None]]] = {}
        self._graphs: dict[int, list[Callable[[], None]]] = {}
        self._clock = 0.0
        self._marks: dict[int, float] = {}
        self.library = type("library", (), {})()
        for name, arguments in PROTOTYPES.items():
            kind = ctypes.CFUNCTYPE(ctypes.c_int, *arguments)
            setattr(self.library, name, kind(self._wrapped(name)))

    def _wrapped(self, name: str) -> Callable[..., int]:
        def call(*arguments: Any) -> int:
            if name in self.fails:
                return self.fails[name]
            needs_context = name.startswith(("cuMem", "cuStream", "cuEvent", "cuGraph"))
            if needs_context and not self.current:
                return 201  # CUDA_ERROR_INVALID_CONTEXT
            answer = getattr(self, f"_{name}", lambda *_: None)(*arguments)
            return int(answer or 0)

        return call

    def floats(self, address: int, count: int) -> Any:
        assert count * 4 <= len(self.memory[address])
        return np.frombuffer(self.memory[address], np.float32, count)

    def submit(self, stream: int, work: Callable[[], None]) -> None:
        self._recording.get(stream, self._queues[stream]).append(work)

    def _new(self, out: Any, kind: str) -> int:
        self.made.append(kind)
        handle = 0x1000 + len(self.made)
        self.handles[handle] = kind
        out[0] = handle
        return handle

    def alive(self) -> list[str]:
        return [*self.handles.values(), *("memory" for _ in self.memory)]

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

    def _cuDeviceGetAttribute(self, out: Any, attribute: int, device: int) -> None:
        capability = self.others[device][1] if device in self.others else self.capability
        out[0] = {75: capability[0], 76: capability[1]}[attribute]

    def _cuDevicePrimaryCtxRetain(self, out: Any, device: int) -> None:
        context = next((key for key, kind in self.handles.items() if kind == "context"), None)
        out[0] = context or self._new(out, "context")
        self._retained += 1

    def _cuDevicePrimaryCtxRelease_v2(self, device: int) -> None:
        self._retained -= 1
        if self._retained == 0:
            self._drop(next(key for key, kind in self.handles.items() if kind == "context"))
            self.current = 0

    def _cuCtxSetCurrent(self, context: int) -> None:
        assert self.handles[context] == "context"
        self.current = context

    def _cuMemAlloc_v2(self, out: Any, size: int) -> None:
        buffer = (ctypes.c_char * size)()
        self.memory[ctypes.addressof(buffer)] = buffer
        out[0] = ctypes.addressof(buffer)

    def _cuMemFree_v2(self, address: int) -> None:
        del self.memory[address]

    def _cuMemcpyHtoDAsync_v2(self, target: int, source: int, size: int, stream: int) -> int:
        return self._copy(target, source, size, stream, self.memory[target])

    def _cuMemcpyDtoHAsync_v2(self, target: int, source: int, size: int, stream: int) -> int:
        return self._copy(target, source, size, stream, self.memory[source])

    def _copy(self, target: int, source: int, size: int, stream: int, device: Any) -> int:
        if stream not in self._queues or size > len(device):
            return 1  # CUDA_ERROR_INVALID_VALUE
        self.submit(stream, lambda: ctypes.memmove(target, source, size))
        return 0

    def _cuStreamCreate(self, out: Any, flags: int) -> None:
        self._queues[self._new(out, "stream")] = []

    def _cuStreamSynchronize(self, stream: int) -> None:
        queue, self._queues[stream] = self._queues[stream], []
        for work in queue:
            self._clock += 0.5
            work()

    def _cuStreamDestroy_v2(self, stream: int) -> None:
        self._drop(stream)
        del self._queues[stream]

    def _cuEventCreate(self, out: Any, flags: int) -> None:
        self._new(out, "event")

    def _cuEventRecord(self, event: int, stream: int) -> None:
        self.submit(stream, lambda: self._marks.update({event: self._clock}))

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
