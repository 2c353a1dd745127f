"""Memory that was freed goes back to the system."""

from __future__ import annotations

import contextlib
import ctypes


def give_back() -> None:
    """Returns freed memory where the C library (glibc) would keep it for later; a few milliseconds.

    Reading a model and packing its weights takes several times its size for a moment. What is kept
    of that stays in the process, and large blocks do not come from it again.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library has no such
        ctypes.CDLL(None).malloc_trim(0)
