"""Tensors that stay on the GPU: those that others hand to an engine, and those that it gives back.

They are taken and given by DLPack (torch, CuPy, JAX) or by version 3 of Numba's
``__cuda_array_interface__``, without a copy through the host.
"""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeres.backends.base import Array
from edgeres.backends.tensorrt import dlpack
from edgeres.backends.tensorrt.cuda import CudaContext
from edgeres.backends.tensorrt.driver import call
from edgeres.errors import DataError

_LEGACY_STREAM = 1


@dataclass(frozen=True)
class DeviceFeed:
    """A tensor of someone else on a GPU.

    Attributes:
        address: Of its first element.
        shape: Its sizes.
        dtype: numpy's name of its type.
        stream: Stream that its values may still be under way on; ``None`` where they are there.
        owner: What keeps the memory.
    """

    address: int
    shape: tuple[int, ...]
    dtype: str
    stream: int | None
    owner: object

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


def device_feed(name: str, given: Any, stream: int) -> DeviceFeed:
    """Finds out where a tensor lies.

    Args:
        name: Of the input, for messages.
        given: An object with ``__dlpack__`` or ``__cuda_array_interface__``.
        stream: Stream that will read it: who hands it over by DLPack lets that stream wait.

    Raises:
        DataError: It is no tensor on a GPU, or not C-contiguous.
    """
    if hasattr(given, "__dlpack_device__"):
        kind, _ = given.__dlpack_device__()
        if int(kind) != dlpack.CUDA:
            raise _not_there(name, given)
        capsule = given.__dlpack__(stream=stream)
        found = dlpack.describe_capsule(capsule)
        feed = DeviceFeed(found.address, found.shape, found.dtype, None, (capsule, given))
        dense = found.dense
    elif hasattr(given, "__cuda_array_interface__"):
        record = given.__cuda_array_interface__
        dtype = np.dtype(record["typestr"])
        shape = tuple(int(size) for size in record["shape"])
        strides = record.get("strides")
        dense = strides is None or dlpack.is_dense(
            shape, tuple(step // dtype.itemsize for step in strides)
        )
        # Before version 3 nothing is said about streams: then the default one is waited for.
        pending = record.get("stream", _LEGACY_STREAM)
        feed = DeviceFeed(int(record["data"][0]), shape, dtype.name, pending, given)
    else:
        raise _not_there(name, given)
    if not dense:
        raise DataError(
            f"input {name}: the tensor on the GPU is not C-contiguous.",
            hint="Make it contiguous first; the engine does not.",
        )
    return feed


def _not_there(name: str, given: object) -> DataError:
    return DataError(
        f"input {name}: expected a tensor on the GPU (DLPack or __cuda_array_interface__), got "
        f"{type(given).__name__}.",
        hint="Use infer for arrays on the host.",
    )


class DeviceArray:
    """An output on the GPU, complete, in memory of its own that lives as long as this object.

    ``torch.from_dlpack(array)`` and ``cupy.from_dlpack(array)`` take it without a copy.
    """

    def __init__(self, ordinal: int, shape: tuple[int, ...], dtype: str) -> None:
        """Allocates.

        Args:
            ordinal: Which GPU.
            shape: Its sizes.
            dtype: numpy's name of its type.

        Raises:
            StageError: The GPU has too little memory.
        """
        self.shape = shape
        self.dtype = np.dtype(dtype)
        self._ordinal = ordinal
        self._address = ctypes.c_uint64()
        self._context = CudaContext(ordinal)
        try:
            with self._context.current():
                size_bytes = max(1, self.nbytes)
                call(
                    self._context.library,
                    "cuMemAlloc_v2",
                    ctypes.byref(self._address),
                    size_bytes,
                )
        except BaseException:
            self._context.close()
            raise

    @property
    def address(self) -> int:
        """Of the first element, on the GPU."""
        return self._address.value

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Version 3 of Numba's protocol; no stream has to be waited for."""
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.address, False),
            "version": 3,
            "strides": None,
            "stream": None,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        """Kind and number of the device."""
        return (dlpack.CUDA, self._ordinal)

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> object:
        """The tensor as an unversioned DLPack capsule; its values are there for every stream.

        Raises:
            BufferError: A copy, or another device, was asked for.
        """
        if copy or dl_device not in (None, self.__dlpack_device__()):
            raise BufferError("a DeviceArray hands out its own memory, where it lies.")
        described = dlpack.Described(self.address, self.shape, self.dtype.name, True, self._ordinal)
        return dlpack.make_capsule(described, self)

    def numpy(self) -> Array:
        """A copy on the host.

        Raises:
            StageError: CUDA failed.
        """
        result: Array = np.empty(self.shape, self.dtype)
        library, stream = self._context.library, ctypes.c_void_p()
        pointer = ctypes.c_void_p(result.ctypes.data)
        with self._context.current():
            call(library, "cuMemcpyDtoHAsync_v2", pointer, self.address, result.nbytes, stream)
            call(library, "cuStreamSynchronize", stream)
        return result

    def __del__(self) -> None:
        """Frees the memory."""
        if getattr(self, "_address", None) and self._address.value:
            with self._context.current():
                self._context.library.cuMemFree_v2(self._address)
            self._address = ctypes.c_uint64()
            self._context.close()
