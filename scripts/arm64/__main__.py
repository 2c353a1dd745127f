"""Makes an aarch64 Python with edgeres's packages on a Linux machine of another architecture.

    python scripts/arm64 [FOLDER]          # make it where it is not; 15 s to a minute, 0.9 GB
    FOLDER/python -m edgeres doctor        # use it; EDGERES_ARM_CPU=cortex-a76 chooses the CPU

Needs Debian or Ubuntu with apt, and pip; nothing of the system is changed. qemu emulates the CPU
instruction by instruction, so what is computed can be trusted and how long it takes cannot. The
packages have the versions that are installed beside this Python, so that both can be compared.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import debian
import emulated
import wheels
from cpus import CPUS, write_cpu


def make(folder: Path) -> None:
    """Makes the environment.

    Raises:
        SystemExit: Something that it needs is missing, or a download failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    debian.unpack_emulator(folder)
    debian.unpack_root(folder)
    versions = wheels.unpack_wheels(folder)
    emulated.compile_modules(folder)
    for cpu in CPUS:
        write_cpu(folder, cpu)
    emulated.write_python(folder)
    # Last: what has it is whole.
    emulated.write_record(folder, versions)


def main() -> None:
    """Makes it and says where it is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("folder", type=Path, nargs="?", default=emulated.default_folder())
    parser.add_argument("--again", action="store_true", help="make it even if it is there")
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    if arguments.again or emulated.versions(folder) != wheels.versions():
        make(folder)
    print(f"{folder}/python runs on {', '.join(CPUS)}.", file=sys.stderr)


if __name__ == "__main__":
    main()
