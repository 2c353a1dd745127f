"""What else the machine did while something was measured.

Two witnesses: how much CPU time the usable CPUs spent on other work, where the system counts it,
and how fast a fixed piece of work runs, which a changed clock or a busy neighbour slows anywhere.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

# As psutil names them, where a system has them; guest times are part of user time already.
_BUSY = ("user", "nice", "system", "irq", "softirq", "steal")
_WORK = bytes(64 * 1024)
_TRIES = 5


@dataclass(frozen=True)
class Moment:
    """CPU time used up to one moment, in seconds.

    ``busy_s`` is that of everything on the usable CPUs, ``None`` where the system does not tell;
    ``own_s`` that of this process and of its finished children.
    """

    wall_s: float
    own_s: float
    busy_s: float | None


def now() -> Moment:
    """Reads the counters."""
    own = os.times()
    return Moment(
        wall_s=time.monotonic(),
        own_s=own.user + own.system + own.children_user + own.children_system,
        busy_s=_busy_seconds(),
    )


def other_load(start: Moment, end: Moment) -> float | None:
    """CPUs that other work kept busy between two moments, e.g. 0.5 for half of one CPU.

    ``None`` where the system does not count CPU time, or the moments are too close to tell.
    """
    wall = end.wall_s - start.wall_s
    if start.busy_s is None or end.busy_s is None or wall < 0.1:
        return None
    return max(0.0, (end.busy_s - start.busy_s) - (end.own_s - start.own_s)) / wall


def usable_cpus() -> int:
    """CPUs that this process may run on."""
    return len(_affinity()) or os.cpu_count() or 1


def fixed_work_ns(clock: Callable[[], int] = time.perf_counter_ns) -> int:
    """Nanoseconds of a fixed piece of work on one CPU (a SHA-256 of 64 KiB), best of five."""
    best = None
    for _ in range(_TRIES):
        start = clock()
        hashlib.sha256(_WORK).digest()
        took = clock() - start
        best = took if best is None else min(best, took)
    return best or 0


def _busy_seconds() -> float | None:
    import psutil

    try:
        cpus = psutil.cpu_times(percpu=True)
    except OSError:  # no /proc
        return None
    usable = _affinity() or range(len(cpus))
    return sum(getattr(cpus[cpu], kind, 0.0) for cpu in usable if cpu < len(cpus) for kind in _BUSY)


def _affinity() -> frozenset[int]:
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset()
