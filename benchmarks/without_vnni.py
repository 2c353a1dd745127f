"""Runs a command on this CPU as on one that has AVX2 but no AVX-512, VNNI or AMX.

    python benchmarks/without_vnni.py edgeres validate out/onnxruntime/model.onnx --json

INT8 sums saturate on such CPUs, and their kernels are others: what an engine answers and how long
it takes there can be seen on a newer machine. The engines run natively, on AVX2 kernels: the
command gets copies of them whose questions about the CPU are answered by `without_vnni.c`. The
copies are made once a version, in the folder for temporary files (half a minute, 200 MB). A CPU
that has none of these instruction sets is left as it is. Needs Linux on x86-64, a C compiler and
objdump.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".c")
#: Packages that look at the CPU by themselves.
ENGINES = ("onnxruntime", "openvino")
UNUSED = ("*_gpu_plugin*", "*_npu_plugin*")
CPUID, TRAP = b"\x0f\xa2", b"\xcd\xa2"
NEWER = (
    "avx512",
    "avx_vnni",
    "avx_ifma",
    "avx_ne_convert",
    "amx_",
    "avx10",
    "gfni",
    "vaes",
    "vpclmulqdq",
)


class CannotHideError(Exception):
    """This machine cannot hide its instruction sets; the text says why."""


def environment() -> dict[str, str]:
    """Environment variables for a child process that is to see a CPU without VNNI.

    Raises:
        CannotHideError: The CPU has VNNI or AVX-512, and they cannot be hidden here.
    """
    here = dict(os.environ)
    if not to_hide():
        return here
    told, packages = _cpuinfo(), _packages()
    mark = hashlib.sha256(SOURCE.read_bytes() + Path(__file__).read_bytes())
    mark.update(
        " ".join(_flags(told)).encode()
    )  # the rest of the file holds clock rates, which change
    for package in packages:
        mark.update(f"{package.resolve()} {package.stat().st_mtime_ns}".encode())
    folder = Path(tempfile.gettempdir()) / f"without-vnni-{os.getuid()}-{mark.hexdigest()[:12]}"
    if re.search(r"[:\s]", str(folder)):  # where LD_PRELOAD is split
        raise CannotHideError(f"{folder}: holds a colon or a blank; set TMPDIR to another folder")
    if folder.exists() and folder.stat().st_uid != os.getuid():
        raise CannotHideError(f"{folder}: is somebody else's; remove it, or set TMPDIR")
    if not folder.exists():
        print(f"without_vnni.py: copying the engines to {folder} ...", file=sys.stderr)
        with tempfile.TemporaryDirectory(prefix=f"{folder.name}-", dir=folder.parent) as made:
            _make(Path(made) / folder.name, packages, told)
            try:
                (Path(made) / folder.name).rename(folder)
            except OSError:  # another process was faster
                if not folder.exists():
                    raise
    first = {"LD_PRELOAD": f"{folder}/without_vnni.so", "PYTHONPATH": f"{folder}/packages"}
    added = {name: ":".join(filter(None, (value, here.get(name)))) for name, value in first.items()}
    return {**here, **added, "WITHOUT_VNNI_CPUINFO": f"{folder}/cpuinfo"}


def to_hide() -> bool:
    """Whether this process sees instruction sets that :func:`environment` hides from a child.

    Raises:
        CannotHideError: It does, and something that hiding needs is not here; making the copies of
            the engines may still fail.
    """
    if hidden():
        return False
    flags = _flags(_cpuinfo())
    if "avx2" not in flags:
        raise CannotHideError("this is no x86-64 CPU with AVX2 (/proc/cpuinfo)")
    if not any(flag.startswith(("avx512", "avx_vnni", "amx_")) for flag in flags):
        return False
    for name in ("cc", "objdump"):
        if shutil.which(name) is None:
            raise CannotHideError(f"there is no {name}: apt-get install gcc libc6-dev binutils")
    if not _packages():
        raise CannotHideError(
            f"{sys.executable} has none of {', '.join(ENGINES)}; use edgeres's own"
        )
    return True


def hidden() -> bool:
    """Whether this process itself sees the CPU without VNNI."""
    return "WITHOUT_VNNI_CPUINFO" in os.environ


def _packages() -> list[Path]:
    found = [importlib.util.find_spec(name) for name in ENGINES]
    return [Path(spec.origin).parent for spec in found if spec is not None and spec.origin]


def _make(folder: Path, packages: list[Path], told: str) -> None:
    folder.mkdir(mode=0o700)
    (folder / "cpuinfo").write_text(_older(told))
    library = folder / "without_vnni.so"
    _run("cc", "-O2", "-fPIC", "-shared", "-o", str(library), str(SOURCE), "-ldl")
    for package in packages:
        copy = folder / "packages" / package.name
        shutil.copytree(package, copy, ignore=shutil.ignore_patterns(*UNUSED))
        if not sum(_trap(path) for path in copy.rglob("*.so*")):
            raise CannotHideError(
                f"objdump finds no CPUID in {package}, so nothing would be hidden"
            )


def _trap(library: Path) -> int:
    """Every CPUID instruction of a library becomes one that traps: how many; changes the file."""
    code = bytearray(library.read_bytes())
    if not code.startswith(b"\x7fELF") or CPUID not in code:
        return 0
    trapped = 0
    sections: list[tuple[int, int, int]] = []  # size, address, place in the file
    command = ["objdump", "--wide", "--section-headers", "--disassemble", str(library)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as listed:
        assert listed.stdout is not None
        for line in listed.stdout:
            if line.rstrip().endswith("\tcpuid"):  # "  68276c:\t0f a2    \tcpuid"
                address = int(line.partition(":")[0], 16)
                for size, start, begin in sections:
                    place = begin + address - start
                    if start <= address < start + size and code[place : place + 2] == CPUID:
                        code[place : place + 2] = TRAP
                        trapped += 1
            elif "CODE" in line:  # "  7 .text  03144460  00315d40  00315d40  00315d40  2**6  CODE"
                size, start, _, begin = (int(word, 16) for word in line.split()[2:6])
                sections.append((size, start, begin))
    if listed.returncode:
        raise CannotHideError(f"objdump cannot read {library}")
    library.write_bytes(code)
    return trapped


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotHideError(f"{' '.join(command)}: {done.stderr.strip()[-300:]}")


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
    except (CannotHideError, OSError) as error:
        print(f"without_vnni.py: {error}", file=sys.stderr)
        raise SystemExit(2) from error
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    try:
        os.execvpe(sys.argv[1], sys.argv[1:], variables)
    except OSError as error:
        print(f"without_vnni.py: {sys.argv[1]}: {error.strerror}", file=sys.stderr)
        raise SystemExit(2) from error


if __name__ == "__main__":
    main()
