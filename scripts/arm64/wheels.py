"""aarch64 wheels of edgeres's packages, in the versions that are installed beside this Python."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import sys
import tomllib
import zipfile
from pathlib import Path

from debian import run

PROJECT = Path(__file__).parents[2] / "pyproject.toml"
RUNTIMES = ("onnxruntime", "openvino")
_PYTHON = "3.11"  # Debian 12's, whose glibc is 2.36
_NEWEST_GLIBC, _OLDEST_GLIBC = 36, 17


def pins() -> list[str]:
    """``NAME==VERSION`` of what edgeres needs without torch, and of the runtimes.

    Raises:
        SystemExit: One of them is not installed here.
    """
    needed = tomllib.loads(PROJECT.read_text())["project"]["dependencies"]
    names = [re.split(r"[<>=!~ \[]", text, maxsplit=1)[0] for text in needed] + list(RUNTIMES)
    try:
        return [f"{name}=={importlib.metadata.version(name)}" for name in names]
    except importlib.metadata.PackageNotFoundError as error:
        sys.exit(f"{error}: run this with the Python of the project's own environment.")


def versions() -> dict[str, str]:
    """:func:`pins` by name."""
    return dict(pin.split("==") for pin in pins())


def unpack_wheels(folder: Path) -> dict[str, str]:
    """Downloads the wheels and unpacks them into ``site/``; gives the versions of the pinned ones.

    Raises:
        SystemExit: A package has no wheel for aarch64.
    """
    wanted, downloads, site = pins(), folder / "wheels", folder / "site"
    shutil.rmtree(site, ignore_errors=True)
    platforms = [
        f"--platform=manylinux_2_{minor}_aarch64"
        for minor in range(_NEWEST_GLIBC, _OLDEST_GLIBC - 1, -1)
    ]
    run(
        [
            *(sys.executable, "-m", "pip", "download", "--quiet", f"--dest={downloads}"),
            *("--only-binary=:all:", f"--python-version={_PYTHON}", "--implementation=cp"),
            *("--abi=cp311", "--abi=abi3", "--abi=none", *platforms),
            *("--platform=manylinux2014_aarch64", "--platform=linux_aarch64", *wanted),
        ]
    )
    for wheel in sorted(downloads.glob("*.whl")):
        zipfile.ZipFile(wheel).extractall(site)
    shutil.rmtree(downloads)
    return versions()
