"""Keeps freed memory in the process while it works with large arrays.

Every training step, and every layer of a search for integers, allocates and frees the same large
blocks. The C library gives blocks of that size back to the kernel at once, which must then clear
each page again at the next step. With higher thresholds these page faults do not happen
(``benchmarks/training_step.py`` counts them).
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Option numbers of mallopt(3), glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_DEFAULT_BYTES = 128 * 1024
_KEEP_BYTES = 1 << 30


@contextmanager
def freed_memory_kept() -> Iterator[bool]:
    """Raises glibc's thresholds for a block, then restores the defaults and trims.

    Yields:
        Whether the C library took the setting; other systems' allocators are left alone.
    """
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    if library is None or not hasattr(library, "mallopt") or not hasattr(library, "malloc_trim"):
        yield False
        return
    taken = all(library.mallopt(option, _KEEP_BYTES) for option in _OPTIONS)
    try:
        yield taken
    finally:
        for option in _OPTIONS:
            library.mallopt(option, _DEFAULT_BYTES)
        library.malloc_trim(0)


_OPTIONS = (_MMAP_THRESHOLD, _TRIM_THRESHOLD)
