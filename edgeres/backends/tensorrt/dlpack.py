"""DLPack, the C structure in which frameworks hand each other tensors without copying them.

Layout and rules are those of ``dlpack.h`` (version 0.8, the unversioned capsule ``dltensor``) and
of the Python array API's ``__dlpack__``.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeres.errors import DataError

CUDA = 2
_NAME = b"dltensor"
_KINDS = {"i": 0, "u": 1, "f": 2, "b": 6}


class _Tensor(ctypes.Structure):
    """``DLTensor``."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _Managed(ctypes.Structure):
    """``DLManagedTensor``."""


_Deleter = ctypes.CFUNCTYPE(None, ctypes.POINTER(_Managed))
_Managed._fields_ = (
    ("tensor", _Tensor),
    ("owner", ctypes.c_void_p),
    ("deleter", _Deleter),
)
_Destructor = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def _python(name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
    """A function of Python's C API with its own prototype, apart from others' settings."""
    function = ctypes.PYFUNCTYPE(result, *arguments)((name, ctypes.pythonapi))
    return function


_new_capsule = _python(
    "PyCapsule_New", ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, _Destructor
)
_pointer_in = _python("PyCapsule_GetPointer", ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)
# In a destructor the capsule is no Python object any more that could be counted.
_is_valid = _python("PyCapsule_IsValid", ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)
_raw_pointer = _python("PyCapsule_GetPointer", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)
_keep = _python("Py_IncRef", None, ctypes.py_object)
_release = _python("Py_DecRef", None, ctypes.c_void_p)


@dataclass(frozen=True)
class Described:
    """A tensor in someone's memory.

    Attributes:
        address: Of its first element.
        shape: Its sizes.
        dtype: numpy's name of its type.
        dense: Whether it is C-contiguous.
        device: The number of its GPU.
    """

    address: int
    shape: tuple[int, ...]
    dtype: str
    dense: bool
    device: int


def describe_capsule(capsule: object) -> Described:
    """Reads a capsule ``dltensor``; the memory is the producer's as long as the capsule lives.

    Raises:
        DataError: A type that numpy does not have.
    """
    found = _Managed.from_address(_pointer_in(capsule, _NAME)).tensor
    shape = tuple(found.shape[: found.ndim])
    kind = next((letter for letter, code in _KINDS.items() if code == found.code), None)
    if kind is None or found.lanes != 1 or found.bits % 8:
        raise DataError(
            f"a DLPack tensor of type code {found.code} with {found.bits} bits has no numpy type.",
            hint="Convert it first; the engine does not.",
        )
    return Described(
        address=(found.data or 0) + found.byte_offset,
        shape=shape,
        dtype=np.dtype(f"{kind}{found.bits // 8}").name,
        dense=not found.strides or is_dense(shape, tuple(found.strides[: found.ndim])),
        device=found.device_id,
    )


def is_dense(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Whether strides, counted in elements, are those of a C-contiguous array."""
    wanted = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    return all(
        size <= 1 or got == want for size, got, want in zip(shape, strides, wanted, strict=True)
    )


def make_capsule(described: Described, owner: object) -> object:
    """A capsule ``dltensor`` of a dense tensor, which keeps ``owner`` alive until it is freed."""
    dtype, shape = np.dtype(described.dtype), described.shape
    managed = _Managed()
    sizes = (ctypes.c_int64 * len(shape))(*shape)
    tensor = managed.tensor
    tensor.data, tensor.device_type, tensor.device_id = described.address, CUDA, described.device
    tensor.ndim, tensor.shape = len(shape), sizes
    tensor.code, tensor.bits, tensor.lanes = _KINDS[dtype.kind], dtype.itemsize * 8, 1
    kept = (managed, sizes, owner)
    managed.owner, managed.deleter = id(kept), _deleter
    _keep(kept)
    return _new_capsule(ctypes.addressof(managed), _NAME, _destructor)


def _delete(managed: Any) -> None:
    _release(managed.contents.owner)


def _destroy(capsule: int) -> None:
    """Frees what nobody has taken out of a capsule: whoever takes it renames the capsule."""
    if _is_valid(capsule, _NAME):
        _release(_Managed.from_address(_raw_pointer(capsule, _NAME)).owner)


# C calls these as long as the process lives.
_deleter, _destructor = _Deleter(_delete), _Destructor(_destroy)
