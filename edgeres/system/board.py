"""The board around the CPU: its model, the system that its maker ships, and how warm it is.

Read from the kernel's files; a machine without them (a server, macOS, Windows) has empty answers.
"""

from __future__ import annotations

import re
from pathlib import Path

from edgeres.system.files import read_or_empty

MODEL = Path("/proc/device-tree/model")
L4T_RELEASE = Path("/etc/nv_tegra_release")
THERMAL = Path("/sys/class/thermal")
_SANE_C = (-40.0, 150.0)


def board_model() -> str:
    """What the device tree calls the board, e.g. ``Raspberry Pi 5 Model B Rev 1.0``."""
    return read_or_empty(MODEL).strip("\0\n ")


def l4t_version() -> str:
    """Version of NVIDIA's Linux for Tegra, e.g. ``36.4.3``; empty where it is another system.

    From a line such as ``# R36 (release), REVISION: 4.3, GCID: 38968081, ...``.
    """
    found = re.match(r"# R(\d+) \(\w+\), REVISION: ([\d.]+)", read_or_empty(L4T_RELEASE))
    return ".".join(found.groups()) if found else ""


def temperatures_c() -> dict[str, float]:
    """Temperature in degrees Celsius by thermal zone; zones that tell none are left out."""
    found: dict[str, float] = {}
    for zone in sorted(THERMAL.glob("thermal_zone*")):
        name = read_or_empty(zone / "type").strip() or zone.name
        try:
            celsius = int(read_or_empty(zone / "temp")) / 1000
        except ValueError:
            continue
        if _SANE_C[0] <= celsius <= _SANE_C[1]:
            found[name if name not in found else f"{name} ({zone.name})"] = celsius
    return found
