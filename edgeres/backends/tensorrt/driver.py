"""The NVIDIA driver's C functions that edgeres calls, through ctypes on libcuda.

The driver library comes with every NVIDIA driver, so running an engine needs neither torch nor
the CUDA toolkit. Names and prototypes are those of the CUDA Driver API reference.
"""

from __future__ import annotations

import ctypes
import sys

from edgeres.errors import BackendMissingError, StageError

LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
DRIVER_HINT = "Run it on a machine with an NVIDIA GPU and driver."
_OUT_OF_MEMORY = 2

_pointer = ctypes.c_void_p
_out = ctypes.POINTER(ctypes.c_void_p)
_int_out = ctypes.POINTER(ctypes.c_int)
_address_out = ctypes.POINTER(ctypes.c_uint64)
# CUdeviceptr is a 64-bit integer; handles (context, stream, event, graph) are pointers.
_SIGNATURES: dict[str, tuple[object, ...]] = {
    "cuInit": (ctypes.c_uint,),
    "cuDriverGetVersion": (_int_out,),
    "cuDeviceGetCount": (_int_out,),
    "cuDeviceGet": (_int_out, ctypes.c_int),
    "cuDeviceGetName": (ctypes.c_char_p, ctypes.c_int, ctypes.c_int),
    "cuDeviceGetUuid": (ctypes.c_char_p, ctypes.c_int),
    "cuDeviceGetAttribute": (_int_out, ctypes.c_int, ctypes.c_int),
    "cuDeviceTotalMem_v2": (ctypes.POINTER(ctypes.c_size_t), ctypes.c_int),
    "cuDevicePrimaryCtxRetain": (_out, ctypes.c_int),
    "cuDevicePrimaryCtxRelease_v2": (ctypes.c_int,),
    "cuCtxPushCurrent_v2": (_pointer,),
    "cuCtxPopCurrent_v2": (_out,),
    "cuMemAlloc_v2": (_address_out, ctypes.c_size_t),
    "cuMemFree_v2": (ctypes.c_uint64,),
    "cuMemHostAlloc": (_out, ctypes.c_size_t, ctypes.c_uint),
    "cuMemFreeHost": (_pointer,),
    "cuMemHostGetDevicePointer_v2": (_address_out, _pointer, ctypes.c_uint),
    "cuMemcpyHtoDAsync_v2": (ctypes.c_uint64, _pointer, ctypes.c_size_t, _pointer),
    "cuMemcpyDtoHAsync_v2": (_pointer, ctypes.c_uint64, ctypes.c_size_t, _pointer),
    "cuMemcpyDtoDAsync_v2": (ctypes.c_uint64, ctypes.c_uint64, ctypes.c_size_t, _pointer),
    "cuPointerGetAttribute": (_pointer, ctypes.c_int, ctypes.c_uint64),
    "cuStreamCreate": (_out, ctypes.c_uint),
    "cuStreamSynchronize": (_pointer,),
    "cuStreamWaitEvent": (_pointer, _pointer, ctypes.c_uint),
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


def call(library: ctypes.CDLL, name: str, *arguments: object) -> None:
    """Calls a function of the driver.

    Raises:
        StageError: It failed; the message has the driver's reason.
    """
    code = getattr(library, name)(*arguments)
    if code == _OUT_OF_MEMORY:
        raise StageError(
            f"the {'machine' if name == 'cuMemHostAlloc' else 'GPU'} is out of memory ({name}).",
            hint="Use a smaller batch (max_batch) or fewer contexts, or free memory.",
        )
    if code:
        raise StageError(f"CUDA: {name} failed: {_error_text(library, code)}.")


def _error_text(library: ctypes.CDLL, code: int) -> str:
    text = ctypes.c_char_p()
    library.cuGetErrorString(code, ctypes.byref(text))
    return f"error {code}" + (f", {text.value.decode(errors='replace')}" if text.value else "")
