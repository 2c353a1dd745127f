"""The emulator and an arm64 root of Debian packages, unpacked below a folder, never installed.

apt resolves what Python needs with a configuration, lists and a status file of its own, so that the
system's package database is neither read nor changed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

EMULATOR = "qemu-user-static"
PACKAGES = ("python3.11", "libpython3.11-stdlib", "libstdc++6", "libgomp1", "libc-bin", "coreutils")
_TOOLS = ("apt-get", "dpkg")


def unpack_emulator(folder: Path) -> None:
    """Puts qemu into ``qemu/``, for this machine's own architecture."""
    _need(_TOOLS)
    place = _emptied(folder / "downloads")
    run(["apt-get", "-q", "download", EMULATOR], cwd=place)
    _unpack(place, _emptied(folder / "qemu"))


def unpack_root(folder: Path) -> None:
    """Puts Python for arm64 and the libraries that it and the wheels need into ``root/``."""
    place, private = _emptied(folder / "downloads"), _emptied(folder / "apt")
    environment = {**os.environ, "APT_CONFIG": str(_configuration(private, place))}
    run(["apt-get", "-q", "update"], environment=environment)
    run(
        ["apt-get", "-q", "-y", "install", "--download-only", *PACKAGES],
        environment=environment,
    )
    _unpack(place, _emptied(folder / "root"))
    shutil.rmtree(private)


def run(
    command: Sequence[str], *, cwd: Path | None = None, environment: Mapping[str, str] | None = None
) -> None:
    """Runs a command; what it prints is shown only where it fails.

    Raises:
        SystemExit: It failed.
    """
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{' '.join(command[:3])} ... failed:\n{done.stdout}{done.stderr}")


def _need(tools: Sequence[str]) -> None:
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        sys.exit(f"needs {' and '.join(missing)}, which Debian and Ubuntu have.")


def _configuration(private: Path, downloads: Path) -> Path:
    for name in ("lists/partial", "cache/archives/partial", "parts"):
        (private / name).mkdir(parents=True)
    (private / "status").touch()
    (downloads / "partial").mkdir()
    told = {
        "Dir::State": private,
        "Dir::State::lists": private / "lists",
        "Dir::State::status": private / "status",
        "Dir::Cache": private / "cache",
        "Dir::Cache::archives": downloads,
        "Dir::Etc::parts": private / "parts",
        "APT::Architecture": "arm64",
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
    }
    lines = [f'{key} "{value}";' for key, value in told.items()]
    path = private / "apt.conf"
    path.write_text("\n".join([*lines, 'APT::Architectures { "arm64"; };', ""]))
    return path


def _unpack(downloads: Path, target: Path) -> None:
    for package in sorted(downloads.glob("*.deb")):
        run(["dpkg", "-x", str(package), str(target)])
    shutil.rmtree(downloads)


def _emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
