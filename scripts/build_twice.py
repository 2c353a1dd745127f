"""Builds wheel and source archive twice and keeps them only where the bytes are equal.

    python scripts/build_twice.py --out dist

Each time from another folder, with other times and other permissions of the files. Files in them
hold the time of the last commit, or `SOURCE_DATE_EPOCH` where it is set.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
BUILD = """
import sys
from hatchling.build import build_sdist, build_wheel
build_wheel(sys.argv[1])
build_sdist(sys.argv[1])
"""


def copy(root: Path, folder: Path, *, seconds: int, umask: int) -> None:
    """The tracked files in another folder.

    Args:
        root: The repository.
        folder: Where to.
        seconds: Time of each file, in seconds since 1970.
        umask: Permissions that nobody gets.
    """
    listed = ["git", "-C", str(root), "ls-files", "-z"]
    names = subprocess.run(listed, capture_output=True, check=True).stdout.decode().split("\0")
    for name in filter(None, names):
        if not (root / name).is_file():
            continue  # it was removed and not committed
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / name, place)
        runs = (root / name).stat().st_mode & 0o100
        place.chmod((0o777 if runs else 0o666) & ~umask)
        os.utime(place, (seconds, seconds))


def build(folder: Path, out: Path, epoch: str) -> dict[str, str]:
    """Name to SHA-256 of what is built from a folder."""
    out.mkdir()
    subprocess.run(
        [sys.executable, "-c", BUILD, str(out)],
        cwd=folder,
        env={**os.environ, "SOURCE_DATE_EPOCH": epoch},
        check=True,
        capture_output=True,
    )
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(out.iterdir())
    }


def last_commit(root: Path) -> str:
    """Seconds since 1970 of the last commit."""
    command = ["git", "-C", str(root), "log", "-1", "--format=%ct"]
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout.strip()


def build_twice(root: Path, out: Path) -> dict[str, str]:
    """Builds twice and moves what is equal to ``out``; gives name to SHA-256.

    Raises:
        SystemExit: The two differ.
    """
    epoch = os.environ.get("SOURCE_DATE_EPOCH") or last_commit(root)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        copy(root, place / "first", seconds=1_600_000_000, umask=0o022)
        copy(root, place / "a" / "second", seconds=1_700_000_000, umask=0o007)
        found = build(place / "first", place / "one", epoch)
        again = build(place / "a" / "second", place / "two", epoch)
        if found != again:
            raise SystemExit(f"two builds differ: {found} and {again}")
        out.mkdir(parents=True, exist_ok=True)
        for file in found:
            shutil.copyfile(place / "one" / file, out / file)
    return found


def main() -> None:
    """Builds, and prints hashes as ``sha256sum`` does."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--root", type=Path, default=ROOT)
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    arguments = parser.parse_args()
    for name, sha256 in build_twice(arguments.root, arguments.out).items():
        print(f"{sha256}  {name}")


if __name__ == "__main__":
    main()
