"""Finds the engines in an output folder of ``edgeres convert``, which may come from anywhere."""

from __future__ import annotations

from pathlib import Path

from edgeres.errors import ArtefactError
from edgeres.evaluation import run_folder


def engine_in(folder: Path, name: str) -> Path:
    """Path of an engine that the folder's report names.

    Args:
        folder: The output folder.
        name: The engine's path in it, as ``report.json`` says.

    Raises:
        ArtefactError: The path leads out of the folder, by itself or through a link.
    """
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ArtefactError(
            f"{folder / run_folder.REPORT}: names an engine outside of its folder.",
            hint="Run `edgeres convert` again.",
        )
    return path
