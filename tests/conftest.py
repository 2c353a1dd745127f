"""What tests of several parts need."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def mount(tmp_path) -> Iterator[Any]:
    """``mount(options)``: a small file system in memory, where the system lets us."""
    place = tmp_path / "mounted"
    place.mkdir()
    mounted = []

    def make(options: str) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
        if shutil.which("mount") is None or subprocess.run(command, check=False).returncode:
            pytest.skip("mounting a file system needs root")
        mounted.append(place)
        return place

    yield make
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)
