"""A child process ends when its parent does, however that ends.

A parent that is killed cannot stop its children, and native code in a child may hang for ever. So
the child asks the system to be killed with its parent; where the system cannot do that, a thread
looks for the parent. A limit on CPU time is behind both.
"""

from __future__ import annotations

import ctypes
import math
import os
import signal
import sys
import threading
import time

_PR_SET_PDEATHSIG = 1  # prctl(2)
_LOOK_S = 1.0
_SPARE_CPU_S = 60


def end_with_parent(parent: int) -> None:
    """Called in the child: from now on it ends with its parent, and at once if that is gone.

    Args:
        parent: Process number of the parent, as that one knows it.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    elif hasattr(os, "getppid"):
        threading.Thread(target=_look, args=(parent,), daemon=True).start()
    if os.getppid() != parent:  # it ended before it was asked for
        os._exit(1)


def limit_cpu_time(seconds: float) -> None:
    """Bounds the CPU time of this process to what all CPUs can give in that time, and some more."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    wanted = math.ceil(seconds) * (os.cpu_count() or 1) + _SPARE_CPU_S
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    if hard == resource.RLIM_INFINITY or wanted < hard:
        resource.setrlimit(resource.RLIMIT_CPU, (wanted, hard))


def _look(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK_S)
    os._exit(1)
