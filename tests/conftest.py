"""What tests of several parts need."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from . import both_cpus


def pytest_addoption(parser: pytest.Parser) -> None:
    """What ``tests/both_cpus.py`` is told."""
    parser.addoption(
        "--native-only",
        action="store_true",
        help="do not run what computes INT8 a second time, as on a CPU without VNNI",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Registers what makes everything that computes INT8 run on both kinds of CPU."""
    config.addinivalue_line(
        "markers", "any_cpu(why): runs INT8 engines, yet not again without VNNI, for this reason"
    )
    config.pluginmanager.register(both_cpus.BothCpus(config), "both_cpus")


@pytest.fixture(scope="session")
def load_program() -> Callable[[Path], ModuleType]:
    """``load_program(file)``: a program of ``benchmarks/`` or ``scripts/`` as a module."""
    return both_cpus.load_program


@pytest.fixture(scope="session")
def without_vnni() -> dict[str, str]:
    """Environment of a child process that sees this CPU with AVX2 and nothing newer."""
    try:
        return both_cpus.older_cpu()
    except both_cpus.CannotRunError as error:
        pytest.skip(str(error))


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
