"""CPUs and memory that this process may really use: affinity and control groups included.

A container on a large machine sees all of its CPUs and memory, but gets only its share.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

from edgeres.system.files import read_or_empty

_OWN_CGROUP = Path("/proc/self/cgroup")
_CGROUPS = Path("/sys/fs/cgroup")


def usable_threads() -> int:
    """CPUs that this process may use: affinity, cut to the CPU quota of its container."""
    if hasattr(os, "sched_getaffinity"):
        allowed = len(os.sched_getaffinity(0))
    else:
        allowed = os.cpu_count() or 1
    quota = _cpu_quota()
    return allowed if quota is None else max(1, min(allowed, math.ceil(quota)))


def usable_memory() -> int:
    """Bytes of memory of the machine or of the container, whichever is less."""
    import psutil

    limits = [
        int(text)
        for text in _cgroup_values("memory", "memory.max", "memory.limit_in_bytes")
        if text.isdigit()
    ]
    return min([int(psutil.virtual_memory().total), *limits])


def _cpu_quota() -> float | None:
    """CPUs that the container may use at most, ``None`` where there is no limit."""
    quotas = []
    for text in _cgroup_values("cpu", "cpu.max", ""):
        quota, _, period = text.partition(" ")
        if quota.isdigit() and period.strip().isdigit():
            quotas.append(int(quota) / int(period))
    for quota, period in zip(
        _cgroup_values("cpu", "", "cpu.cfs_quota_us"),
        _cgroup_values("cpu", "", "cpu.cfs_period_us"),
        strict=False,
    ):
        if quota.isdigit() and period.isdigit():
            quotas.append(int(quota) / int(period))
    return min(quotas, default=None)


def _cgroup_values(controller: str, unified: str, legacy: str) -> list[str]:
    """A setting of this process's control group and of those above it, versions 2 and 1.

    In a container the group's path is often that of the host and not visible; then the root of the
    mounted hierarchy is the container's own group.
    """
    values = []
    for line in read_or_empty(_OWN_CGROUP).splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers and unified:
            root, name = _CGROUPS, unified
        elif controller in controllers.split(",") and legacy:
            root, name = _CGROUPS / controller, legacy
        else:
            continue
        group = root / path.lstrip("/")
        above = [parent for parent in group.parents if parent.is_relative_to(root)]
        values += [
            text for folder in (group, *above) if (text := read_or_empty(folder / name).strip())
        ]
    return values
