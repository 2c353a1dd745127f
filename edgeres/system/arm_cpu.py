"""Names of Arm cores, from the numbers by which the kernel tells them.

An Arm CPU carries no name of itself, only who designed each core and which it is: ``MIDR_EL1`` of
the Arm Architecture Reference Manual, which ``/proc/cpuinfo`` shows as ``CPU implementer`` and
``CPU part``. The numbers stand in the cores' Technical Reference Manuals and in Linux's
``arch/arm64/include/asm/cputype.h``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

_ARM = 0x41
_IMPLEMENTERS = {
    _ARM: "Arm",
    0x42: "Broadcom",
    0x43: "Cavium",
    0x46: "Fujitsu",
    0x48: "HiSilicon",
    0x4E: "NVIDIA",
    0x50: "Applied Micro",
    0x51: "Qualcomm",
    0x53: "Samsung",
    0x61: "Apple",
    0x6D: "Microsoft",
    0xC0: "Ampere",
}
_PARTS = {
    (0x41, 0xD03): "Cortex-A53",
    (0x41, 0xD04): "Cortex-A35",
    (0x41, 0xD05): "Cortex-A55",
    (0x41, 0xD07): "Cortex-A57",
    (0x41, 0xD08): "Cortex-A72",
    (0x41, 0xD09): "Cortex-A73",
    (0x41, 0xD0A): "Cortex-A75",
    (0x41, 0xD0B): "Cortex-A76",
    (0x41, 0xD0C): "Neoverse-N1",
    (0x41, 0xD0D): "Cortex-A77",
    (0x41, 0xD0E): "Cortex-A76AE",
    (0x41, 0xD40): "Neoverse-V1",
    (0x41, 0xD41): "Cortex-A78",
    (0x41, 0xD42): "Cortex-A78AE",
    (0x41, 0xD44): "Cortex-X1",
    (0x41, 0xD46): "Cortex-A510",
    (0x41, 0xD47): "Cortex-A710",
    (0x41, 0xD48): "Cortex-X2",
    (0x41, 0xD49): "Neoverse-N2",
    (0x41, 0xD4B): "Cortex-A78C",
    (0x41, 0xD4C): "Cortex-X1C",
    (0x41, 0xD4D): "Cortex-A715",
    (0x41, 0xD4E): "Cortex-X3",
    (0x41, 0xD4F): "Neoverse-V2",
    (0x41, 0xD80): "Cortex-A520",
    (0x41, 0xD81): "Cortex-A720",
    (0x41, 0xD82): "Cortex-X4",
    (0x41, 0xD84): "Neoverse-V3",
    (0x41, 0xD85): "Cortex-X925",
    (0x41, 0xD87): "Cortex-A725",
    (0x41, 0xD8E): "Neoverse-N3",
    (0x46, 0x001): "A64FX",
    (0x48, 0xD01): "TaiShan v110",
    (0x4E, 0x003): "Denver 2",
    (0x4E, 0x004): "Carmel",
    (0x51, 0x001): "Oryon",
    (0x61, 0x022): "M1 Icestorm",
    (0x61, 0x023): "M1 Firestorm",
    (0x61, 0x032): "M2 Blizzard",
    (0x61, 0x033): "M2 Avalanche",
    (0xC0, 0xAC3): "AmpereOne",
    (0xC0, 0xAC4): "AmpereOne A",
}


def arm_cpu_name(processors: Iterable[Mapping[str, str]]) -> str:
    """Names all kinds of cores of a CPU: ``4 x Cortex-A55 + 4 x Cortex-A76``.

    Args:
        processors: The fields of each processor of ``/proc/cpuinfo``, keys in small letters.

    Returns:
        The name; a core that is not in the table has its numbers as name, and a system that tells
        none gives an empty text.
    """
    counts: dict[str, int] = {}
    for fields in processors:
        try:
            numbers = int(fields["cpu implementer"], 16), int(fields["cpu part"], 16)
        except (KeyError, ValueError):
            continue
        name = _core(*numbers)
        counts[name] = counts.get(name, 0) + 1
    if len(counts) < 2:
        return "".join(counts)
    return " + ".join(f"{count} x {name}" for name, count in counts.items())


def _core(implementer: int, part: int) -> str:
    known = _PARTS.get((implementer, part))
    if known is None:
        return f"{_IMPLEMENTERS.get(implementer, f'implementer 0x{implementer:02x}')} 0x{part:03x}"
    # Arm's own are known without the maker's name.
    return known if implementer == _ARM else f"{_IMPLEMENTERS[implementer]} {known}"
