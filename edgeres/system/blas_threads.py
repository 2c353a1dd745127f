"""Matrix products of numpy and scipy in one thread, for code that makes many small ones.

OpenBLAS, which numpy and scipy bring along on Linux, hands a product of some hundred thousand
multiplications to all CPUs already, and its threads wait for each other without sleeping. Where
many such products follow one another, that wait is most of the CPU time, and on a machine that does
something else too it is most of the time that passes.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_MAPS = Path("/proc/self/maps")
_NAMES = ("scipy_openblas_{}64_", "scipy_openblas_{}", "openblas_{}64_", "openblas_{}")


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Lets OpenBLAS work in the thread that calls it; elsewhere, and with others, does nothing.

    The number of threads is one for the whole process, so others may see it, too: it changes how
    fast products are, and of their sums at most the last digits.
    """
    found = _libraries()
    before = [get() for get, _ in found]
    try:
        for _, set_to in found:
            set_to(1)
        yield
    finally:
        for (_, set_to), count in zip(found, before, strict=True):
            set_to(count)


@functools.cache
def _libraries() -> tuple[tuple[Callable[[], int], Callable[[int], None]], ...]:
    """How many threads each OpenBLAS of this process has, and how that is changed."""
    import numpy.linalg  # both are in the process from here on
    import scipy.linalg

    del numpy, scipy
    found = []
    for path in sorted(_mapped()):
        library = ctypes.CDLL(path)
        for name in _NAMES:
            get = getattr(library, name.format("get_num_threads"), None)
            set_to = getattr(library, name.format("set_num_threads"), None)
            if get is not None and set_to is not None:
                get.restype, set_to.argtypes, set_to.restype = ctypes.c_int, [ctypes.c_int], None
                found.append((get, set_to))
                break
    return tuple(found)


def _mapped() -> set[str]:
    if not _MAPS.exists():
        return set()
    paths = (line.split(maxsplit=5)[-1] for line in _MAPS.read_text().splitlines())
    return {path for path in paths if "openblas" in path.rpartition("/")[2]}
