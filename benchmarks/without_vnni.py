"""Runs a command on this CPU as on one that has AVX2 but no AVX-512, VNNI or AMX.

    python benchmarks/without_vnni.py edgeres validate out/onnxruntime/model.onnx --json

INT8 sums saturate on such CPUs, and their kernels are others: what an engine answers and how long
it takes there can be seen on a newer machine. The engines run natively, on AVX2 kernels;
`without_vnni.c` says how. A CPU that has none of these instruction sets is left as it is. Needs
Linux on x86-64, a CPU whose CPUID can fault (`cpuid_fault` in /proc/cpuinfo: Intel since 2012) and
a C compiler.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".c")
NEWER = ("avx512", "avx_vnni", "avx_ifma", "avx_ne_convert", "amx_", "avx10", "gfni", "vaes")


class CannotHideError(Exception):
    """This machine cannot hide its instruction sets; the text says why."""


def environment() -> dict[str, str]:
    """Environment variables for a child process that is to see a CPU without VNNI.

    Raises:
        CannotHideError: The CPU has VNNI or AVX-512, and they cannot be hidden here.
    """
    here = dict(os.environ)
    if hidden():
        return here
    told = _cpuinfo()
    flags = _flags(told)
    if not any(flag.startswith(("avx512", "avx_vnni", "amx_")) for flag in flags):
        return here
    if "cpuid_fault" not in flags:
        raise CannotHideError("this CPU's CPUID cannot fault, so its VNNI cannot be hidden")
    compiler = shutil.which("cc")
    if compiler is None:
        raise CannotHideError("there is no C compiler (cc): apt-get install gcc libc6-dev")
    mark = hashlib.sha256(SOURCE.read_bytes() + told.encode()).hexdigest()[:12]
    folder = Path(tempfile.gettempdir()) / f"without-vnni-{os.getuid()}-{mark}"
    library, cpuinfo = folder / "without_vnni.so", folder / "cpuinfo"
    if not library.exists():
        folder.mkdir(mode=0o700, exist_ok=True)
        cpuinfo.write_text(_older(told))
        part = folder / f"{os.getpid()}.so"
        command = [compiler, "-O2", "-fPIC", "-shared", "-o", str(part), str(SOURCE), "-ldl"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise CannotHideError(f"{SOURCE.name} does not compile: {done.stderr.strip()[-300:]}")
        part.rename(library)
    loaded = f"{library} {here.get('LD_PRELOAD', '')}".strip()
    return {**here, "LD_PRELOAD": loaded, "WITHOUT_VNNI_CPUINFO": str(cpuinfo)}


def hidden() -> bool:
    """Whether this process itself sees the CPU without VNNI."""
    return "WITHOUT_VNNI_CPUINFO" in os.environ


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError as error:
        raise CannotHideError(f"/proc/cpuinfo cannot be read: {error.strerror}") from error


def _flags(told: str) -> list[str]:
    return next((line.split() for line in told.splitlines() if line.startswith("flags")), [])


def _older(told: str) -> str:
    def without(line: str) -> str:
        return " ".join(word for word in line.split(" ") if not word.startswith(NEWER))

    lines = told.splitlines()
    return "".join(f"{without(line) if line.startswith('flags') else line}\n" for line in lines)


def main() -> None:
    """Becomes the command."""
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        print(__doc__)
        raise SystemExit(0 if sys.argv[1:] in (["-h"], ["--help"]) else 2)
    try:
        variables = environment()
        os.execvpe(sys.argv[1], sys.argv[1:], variables)
    except (CannotHideError, OSError) as error:
        print(f"without_vnni.py: {error}", file=sys.stderr)
        raise SystemExit(2) from error


if __name__ == "__main__":
    main()
