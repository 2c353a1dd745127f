"""Which code and which libraries a stored result was made by: part of every stage's key.

Stages that take minutes at most hold a hash of edgeres' own source and the versions of the
libraries under it, so nobody has to remember that a change of the code changes a result. Training
takes hours and one trained result ships with edgeres, so its stages have a number instead, which a
person raises; ``tests/system/test_stage_code.py`` fails when their code changes and nobody decided.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from edgeres.system.environment import package_versions

REVISIONS: Mapping[str, int] = {"prune": 2, "qat": 4}
"""Stage that trains to a number that rises whenever its code gives other results than before."""

LIBRARIES = ("numpy", "onnx", "onnx-ir", "onnxruntime", "pillow", "scipy")
"""Distributions that decode, calibrate, quantize or answer; a backend tells of its own runtime."""

NOT_OF_STAGES = frozenset({"bundling", "cli", "devices", "report", "tuning"})
"""Folders that no stage keyed by its code reaches: they show, send or search."""

_PACKAGE = Path(__file__).parent.parent


def made_by(stage: str) -> dict[str, Any]:
    """What the key of a stage holds of the code."""
    if stage in REVISIONS:
        return {"revision": REVISIONS[stage]}
    return {"code": code_sha256(), "versions": package_versions(LIBRARIES)}


@functools.cache
def code_sha256() -> str:
    """SHA-256 over the source of everything that stages may call, comments included.

    Read once: an editor that saves a file while a run is at work does not change its keys.
    """
    return hash_of(source_files())


def hash_of(files: Iterable[Path]) -> str:
    """SHA-256 over names and content of source files of edgeres, whatever ends their lines."""
    digest = hashlib.sha256()
    for file in files:
        content = file.read_bytes().replace(b"\r\n", b"\n")
        digest.update(file.relative_to(_PACKAGE).as_posix().encode() + b"\0")
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()


def source_files() -> list[Path]:
    """The source files that :func:`code_sha256` reads, sorted."""
    return [
        file
        for file in all_source_files()
        if file.relative_to(_PACKAGE).parts[0] not in NOT_OF_STAGES
    ]


def all_source_files() -> list[Path]:
    """Every source file of edgeres, in the same order on every system."""
    return sorted(_PACKAGE.rglob("*.py"), key=lambda file: file.relative_to(_PACKAGE).as_posix())
