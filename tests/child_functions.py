"""Functions that the child-process tests call."""

from __future__ import annotations

import ctypes
import os
import resource
import sys
import time
from ctypes import c_size_t, c_void_p
from pathlib import Path

import numpy as np

from edgeres.errors import ModelError
from edgeres.system.child import JsonValue
from edgeres.system.progress import ProgressCallback
from edgeres.system.steady_child import addresses_are_fixed
from edgeres.system.temporary import temporary_folder


def add(first: int, second: int) -> int:
    print("a native library talks on standard output")
    return first + second


def refuse() -> None:
    raise ModelError("tensor 'w' is damaged.", hint="Export it again.")


def stumble() -> None:
    raise KeyError("no such thing")


def allocate(size: int) -> int:
    return np.zeros(size, np.uint8).size  # zeros that are not touched take address space only


def hoard(size: int) -> None:
    kept = np.ones(size, np.uint8)
    time.sleep(60)
    assert kept.any()


def rest(for_s: float) -> None:
    time.sleep(for_s)


def crash() -> None:
    print("about to read address 0", file=sys.stderr)
    sys.stderr.flush()
    ctypes.string_at(0)


def leave(code: int) -> None:
    os._exit(code)


def read_file(path: Path) -> None:
    """Stands for a parser that a file makes crash."""
    crash()


def steps(progress: ProgressCallback) -> str:
    print("a native library talks on standard output")
    for done in (1, 2):
        progress(done, 2)
    return str(Path.cwd())


def steady_refuse(progress: ProgressCallback) -> None:
    refuse()


def steady_crash(progress: ProgressCallback) -> None:
    crash()


def addresses(progress: ProgressCallback) -> list[JsonValue]:
    """Where native code's memory lies, after whether that is fixed, and the limit on the stack."""
    malloc, free = ctypes.CDLL(None).malloc, ctypes.CDLL(None).free
    malloc.restype, malloc.argtypes, free.argtypes = c_void_p, [c_size_t], [c_void_p]
    found = [malloc(size) for size in (24, 600, 5000)]
    for address in found:
        free(address)
    return [addresses_are_fixed(), *found, resource.getrlimit(resource.RLIMIT_STACK)[0]]


def hang(progress: ProgressCallback) -> None:
    progress(os.getpid(), 0)
    time.sleep(600)


def hang_holding(pid_file: str) -> None:
    """Hangs in native code that lets no other thread run."""
    Path(pid_file).write_text(str(os.getpid()))
    ctypes.PyDLL(None).sleep(600)


def hang_in_folder(pid_file: str) -> None:
    """Hangs while it holds a temporary folder."""
    with temporary_folder() as folder:
        (folder / "big").write_bytes(bytes(1 << 20))
        hang_holding(pid_file)


def spin(progress: ProgressCallback) -> None:
    """Hangs in native code that lets no other thread run, and tells where."""
    progress(os.getpid(), 0)
    ctypes.PyDLL(None).sleep(600)
