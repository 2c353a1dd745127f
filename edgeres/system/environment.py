"""The machine that something was measured on: CPU, instruction sets, memory, versions.

Read from the system alone: no runtime is imported, nothing is downloaded, no command of a version
control system is run.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edgeres.system.arm_cpu import arm_cpu_name
from edgeres.system.board import board_model, l4t_version
from edgeres.system.container_limits import usable_memory, usable_threads
from edgeres.system.files import read_or_empty
from edgeres.version import __version__

PACKAGES = (
    "edgeres",
    "numpy",
    "onnx",
    "onnx-ir",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "pillow",
    "safetensors",
    "scipy",
    "tensorrt",
    "tensorrt-rtx-cu12",
    "tensorrt-rtx-cu13",
    "torch",
    "torch-pruning",
)
"""Distributions whose versions can change a result."""

_CPUINFO = Path("/proc/cpuinfo")

# What the kernel, macOS and the manuals call the instruction sets that decide how INT8 runs.
_X86 = (
    "sse4_1",
    "sse4_2",
    "avx",
    "avx2",
    "fma",
    "f16c",
    "avx512f",
    "avx512bw",
    "avx512vl",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "avx_vnni",
    "avx_vnni_int8",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
)
_ARM = {
    "asimd": "neon",
    "neon": "neon",
    "asimdhp": "fp16",
    "asimddp": "dotprod",
    "i8mm": "i8mm",
    "bf16": "bf16",
    "sve": "sve",
    "sve2": "sve2",
    "sme": "sme",
}
_MACOS = {
    "hw.optional.avx2_0": "avx2",
    "hw.optional.fma": "fma",
    "hw.optional.avx512f": "avx512f",
    "hw.optional.avx512vnni": "avx512_vnni",
    "hw.optional.neon": "neon",
    "hw.optional.arm.FEAT_FP16": "fp16",
    "hw.optional.arm.FEAT_DotProd": "dotprod",
    "hw.optional.arm.FEAT_I8MM": "i8mm",
    "hw.optional.arm.FEAT_BF16": "bf16",
    "hw.optional.arm.FEAT_SME": "sme",
}
# Numbers of IsProcessorFeaturePresent in the Windows SDK.
_WINDOWS = {37: "sse4_1", 38: "sse4_2", 39: "avx", 40: "avx2", 41: "avx512f", 43: "dotprod"}
INT8_DOT_PRODUCTS = frozenset(
    {"avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8", "dotprod", "i8mm"}
)
"""Instruction sets that add INT8 products into 32 bits without an int16 in between."""


@dataclass(frozen=True)
class Environment:
    """Where a result comes from.

    Attributes:
        cpu: Model name of the CPU; on Arm its cores' (:mod:`edgeres.system.arm_cpu`).
        isa: Instruction sets that matter for inference, by the kernel's x86 names and ``neon``,
            ``dotprod``, ``i8mm``, ... on Arm.
        architecture: ``x86_64``, ``aarch64``, ...
        cores: Logical CPUs of the machine.
        threads: CPUs that this process may use, affinity and container limits included.
        memory_bytes: Memory of the machine, or the container's limit if that is less.
        os: Operating system and version.
        python: Version of Python.
        versions: Versions of the installed packages that can change a result.
        board: Model of the board, where there is a device tree.
        l4t: Version of NVIDIA's Linux for Tegra on a Jetson, else empty.
    """

    cpu: str
    isa: tuple[str, ...]
    architecture: str
    cores: int
    threads: int
    memory_bytes: int
    os: str
    python: str
    versions: Mapping[str, str] = field(default_factory=dict)
    board: str = ""
    l4t: str = ""

    @property
    def is_arm(self) -> bool:
        """Whether the CPU is a 64-bit Arm."""
        return is_arm(self.architecture)

    @property
    def int8_dot_products(self) -> bool:
        """Whether the CPU has instructions made for INT8 (VNNI, AMX, Arm's dot products)."""
        return not INT8_DOT_PRODUCTS.isdisjoint(self.isa)

    @property
    def int8_instructions(self) -> str:
        """Those instructions by name, or what the CPU has in their place, in words."""
        there = [name for name in self.isa if name in INT8_DOT_PRODUCTS]
        if there:
            return ", ".join(there)
        if self.is_arm:
            return "none (no dot products: 8-bit products are widened, slower than with them)"
        return "none (no VNNI)"

    @property
    def machine(self) -> str:
        """The CPU, and the board around it where it tells one."""
        return f"{self.cpu}, {self.board}" if self.board else self.cpu

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values, with the field names of ``report.json``."""
        return asdict(self) | {"isa": list(self.isa)}


def describe_environment(packages: Sequence[str] = PACKAGES) -> Environment:
    """Describes the machine that this runs on."""
    cpu, isa = _cpu_linux() or _cpu_macos() or _cpu_other()
    return Environment(
        cpu=cpu,
        isa=isa,
        architecture=platform.machine(),
        cores=os.cpu_count() or 1,
        threads=usable_threads(),
        memory_bytes=usable_memory(),
        os=_os_name(),
        python=platform.python_version(),
        versions=package_versions(packages),
        board=board_model(),
        l4t=l4t_version(),
    )


def is_arm(architecture: str | None = None) -> bool:
    """Whether an architecture, by default this machine's, is 64-bit Arm by any of its names."""
    return (architecture or platform.machine()).lower() in ("aarch64", "arm64")


def package_versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Versions of those distributions that are installed; imports none of them.

    That of edgeres is of the code that runs, which need not be what is installed.
    """
    versions = {}
    for name in packages:
        if name == "edgeres":
            versions[name] = __version__
            continue
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _cpu_linux() -> tuple[str, tuple[str, ...]] | None:
    text = read_or_empty(_CPUINFO)
    if not text:
        return None
    processors = [fields for block in text.split("\n\n") if (fields := _fields(block))]
    if not processors:
        return None
    first = {key: value for fields in reversed(processors) for key, value in fields.items()}
    if "flags" in first:
        flags = set(first["flags"].split())
        return first.get("model name", platform.machine()), tuple(f for f in _X86 if f in flags)
    # What all cores have: a program may move from one to another.
    told = [fields["features"].split() for fields in processors if "features" in fields]
    shared = [flag for flag in (told or [[]])[0] if all(flag in flags for flags in told)]
    isa = tuple(dict.fromkeys(_ARM[flag] for flag in shared if flag in _ARM))
    name = arm_cpu_name(processors) or first.get("model name") or first.get("hardware")
    return name or board_model() or platform.machine(), isa


def _fields(block: str) -> dict[str, str]:
    """One block of ``/proc/cpuinfo``, keys in small letters."""
    parts = [line.partition(":") for line in block.splitlines()]
    return {key.strip().lower(): value.strip() for key, colon, value in parts if colon}


def _cpu_macos() -> tuple[str, tuple[str, ...]] | None:
    if sys.platform != "darwin":
        return None
    try:
        done = subprocess.run(
            ["/usr/sbin/sysctl", "machdep.cpu.brand_string", "hw.optional"],
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return _parse_sysctl(done.stdout)


def _parse_sysctl(text: str) -> tuple[str, tuple[str, ...]]:
    values = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        values[key.strip()] = value.strip()
    isa = tuple(name for key, name in _MACOS.items() if values.get(key) == "1")
    return values.get("machdep.cpu.brand_string") or platform.machine(), isa


def _cpu_other() -> tuple[str, tuple[str, ...]]:
    isa: tuple[str, ...] = ()
    if sys.platform == "win32":
        import ctypes

        present = ctypes.windll.kernel32.IsProcessorFeaturePresent
        isa = tuple(name for number, name in _WINDOWS.items() if present(number))
    return platform.processor() or platform.machine() or "unknown", isa


def _os_name() -> str:
    try:
        pretty = platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        pretty = ""
    kernel = f"{platform.system()} {platform.release()}"
    return f"{pretty} ({kernel})" if pretty else kernel
