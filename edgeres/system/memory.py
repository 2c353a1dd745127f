"""Memory of this process: the most that it had, and what it gives back to the system."""

from __future__ import annotations

import contextlib
import ctypes
import re
import sys
from pathlib import Path


def give_back() -> None:
    """Returns freed memory where the C library (glibc) would keep it for later; a few milliseconds.

    Reading a model and packing its weights takes several times its size for a moment. What is kept
    of that stays in the process, and large blocks do not come from it again.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library has no such
        ctypes.CDLL(None).malloc_trim(0)


def peak_rss_bytes() -> int:
    """Highest resident memory of this process in bytes, which psutil tells on Windows alone."""
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    if sys.platform == "linux":  # getrusage would count what the parent had before exec
        told = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
        if told is not None:
            return int(told[1]) * 1024
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, the others KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
