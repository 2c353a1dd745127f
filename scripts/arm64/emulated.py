"""Where the emulated environment is, whether it is whole, and how a program is run in it."""

from __future__ import annotations

import compileall
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

FOLDER_VARIABLE, CPU_VARIABLE = "EDGERES_ARM64", "EDGERES_ARM_CPU"
CHECKOUT = Path(__file__).parents[2]
_RECORD = "made.json"

# As `sys.executable` the program names itself, so child processes are emulated, too.
_PYTHON = """#!/bin/sh
# Python for arm64 by emulation, on the CPU that $EDGERES_ARM_CPU names.
here=$(cd "$(dirname "$0")" && pwd)
export EDGERES_ARM_CPU="${EDGERES_ARM_CPU:-cortex-a72}"
export QEMU_LD_PREFIX="$here/cpus/$EDGERES_ARM_CPU" PYTHONHOME="$here/root/usr"
QEMU_CPU=$(cat "$QEMU_LD_PREFIX/qemu_cpu")
export QEMU_CPU PYTHONPATH="${PYTHONPATH:+$PYTHONPATH:}$here/site"
export OPENBLAS_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE=1
exec "$here/qemu/usr/bin/qemu-aarch64-static" -0 "$here/python" \\
  "$here/root/usr/bin/python3.11" "$@"
"""


def default_folder() -> Path:
    """``$EDGERES_ARM64``, else a folder in the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get(FOLDER_VARIABLE) or cache / "edgeres-arm64")


def write_python(folder: Path) -> None:
    """Writes the program ``python`` that starts the emulated one."""
    path = folder / "python"
    path.write_text(_PYTHON)
    path.chmod(0o755)


def compile_modules(folder: Path) -> None:
    """Compiles the modules here, which takes seconds; emulated, each process would do it anew.

    Only a Python of the same minor version can; another one's files would lie there unused.
    """
    if sys.version_info[:2] == (3, 11):
        for place in (folder / "site", folder / "root/usr/lib"):
            compileall.compile_dir(place, quiet=2, workers=0)


def write_record(folder: Path, versions: Mapping[str, str]) -> None:
    """Writes down that the environment is whole, and what is in it."""
    (folder / _RECORD).write_text(json.dumps({"versions": dict(versions)}, indent=1) + "\n")


def versions(folder: Path) -> dict[str, str]:
    """Versions of the packages in it; none where it is not whole."""
    record = folder / _RECORD
    return dict(json.loads(record.read_text())["versions"]) if record.is_file() else {}


def missing(folder: Path) -> str | None:
    """Says what to do where the environment is not there; ``None`` if it is."""
    if (folder / _RECORD).is_file():
        return None
    return f"no emulated arm64 in {folder}: make it with `python scripts/arm64`"


def run_python(
    folder: Path,
    cpu: str,
    arguments: Sequence[str],
    *,
    cwd: Path,
    seconds: float = 3600.0,
) -> subprocess.CompletedProcess[str]:
    """Runs the emulated Python with this checkout's edgeres; output is kept as text."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return subprocess.run(
        [str(folder / "python"), *arguments],
        cwd=cwd,
        env={**kept, CPU_VARIABLE: cpu, "PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
