"""What tests of several parts need."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import edgeres


@pytest.fixture(scope="session")
def load_program() -> Iterator[Callable[[Path], ModuleType]]:
    """``load_program(file)``: a program of ``benchmarks/`` or ``scripts/`` as a module."""
    names = []

    def load(file: Path) -> ModuleType:
        spec = importlib.util.spec_from_file_location(f"edgeres_program_{file.stem}", file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses look their module up
        names.append(spec.name)
        spec.loader.exec_module(module)
        return module

    yield load
    for name in names:
        sys.modules.pop(name, None)


@pytest.fixture(scope="session")
def without_vnni(load_program) -> dict[str, str]:
    """Environment of a child process that sees this CPU with AVX2 and nothing newer."""
    program = load_program(Path(__file__).parents[1] / "benchmarks" / "without_vnni.py")
    try:
        variables: dict[str, str] = program.environment()
    except program.CannotHideError as error:
        pytest.skip(str(error))
    ours = str(Path(edgeres.__file__).parents[1])
    there = variables.get("PYTHONPATH")
    return {**variables, "PYTHONPATH": os.pathsep.join([there, ours] if there else [ours])}


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
