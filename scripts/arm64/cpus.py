"""The CPUs that are emulated, and the files of the kernel from which libraries learn about them.

An emulated process would read the host's ``/proc/cpuinfo``, and libraries that look there for an
Arm CPU crash. qemu looks for files below its prefix first, so each CPU has a prefix with its own.
Implementer and part numbers are those of the cores' Technical Reference Manuals.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_BASE = "fp asimd evtstrm crc32 cpuid"
_V82 = (
    "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop "
    "asimddp"
)
_LINKED = ("lib", "usr", "etc")


@dataclass(frozen=True)
class Cpu:
    """One CPU.

    Attributes:
        qemu: What qemu is told.
        implementer: Who designed the core.
        part: Which core it is.
        features: As the kernel lists them.
        board: Model of the board in the device tree; servers have none.
        cores: How many the files tell of.
    """

    qemu: str
    implementer: int
    part: int
    features: str
    board: str = ""
    cores: int = 2


CPUS = {
    "cortex-a72": Cpu("cortex-a72", 0x41, 0xD08, _BASE, "Raspberry Pi 4 Model B Rev 1.4"),
    "cortex-a76": Cpu("cortex-a76", 0x41, 0xD0B, _V82, "Raspberry Pi 5 Model B Rev 1.0"),
    # Apple's M2 under Linux: INT8 matrix products without SVE. qemu has no model of it.
    "i8mm": Cpu("max,sve=off,sme=off", 0x61, 0x033, f"{_V82} asimdfhm i8mm bf16"),
}


def write_cpu(folder: Path, name: str) -> None:
    """Makes the prefix ``cpus/NAME`` of one CPU; the rest of the file system is ``root/``."""
    cpu, prefix = CPUS[name], folder / "cpus" / name
    _write(prefix / "qemu_cpu", cpu.qemu)
    _write(prefix / "proc/cpuinfo", _cpuinfo(cpu))
    if cpu.board:
        _write(prefix / "proc/device-tree/model", f"{cpu.board}\0")
    system, last = prefix / "sys/devices/system/cpu", cpu.cores - 1
    for file in ("possible", "present", "online"):
        _write(system / file, f"0-{last}\n")
    _write(system / "kernel_max", f"{last}\n")
    for core in range(cpu.cores):
        place = system / f"cpu{core}"
        _write(place / "regs/identification/midr_el1", f"0x{_midr(cpu):016x}\n")
        together, alone = ("core_siblings_list", "package_cpus_list"), ("thread_siblings_list",)
        for file in (*together, "cluster_cpus_list"):
            _write(place / "topology" / file, f"0-{last}\n")
        for file in (*alone, "core_cpus_list", "core_id"):
            _write(place / "topology" / file, f"{core}\n")
        _write(place / "topology/physical_package_id", "0\n")
    for part in _LINKED:
        link = prefix / part
        link.unlink(missing_ok=True)
        link.symlink_to(Path("../../root") / part)


def _cpuinfo(cpu: Cpu) -> str:
    block = (
        "BogoMIPS\t: 108.00\n"
        f"Features\t: {cpu.features}\n"
        f"CPU implementer\t: 0x{cpu.implementer:02x}\n"
        "CPU architecture: 8\nCPU variant\t: 0x1\n"
        f"CPU part\t: 0x{cpu.part:03x}\nCPU revision\t: 0\n\n"
    )
    return "".join(f"processor\t: {core}\n{block}" for core in range(cpu.cores))


def _midr(cpu: Cpu) -> int:
    """Main ID register: implementer, variant 1, architecture 15 (told elsewhere), part."""
    return cpu.implementer << 24 | 1 << 20 | 0xF << 16 | cpu.part << 4


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
