"""Finds the recipes and calibration sets that come with edgeres, installed or in a checkout.

In an installed package they lie in ``edgeres/assets/``; in a checkout, which is also what an
editable installation points at, in ``recipes/`` and ``calibration/`` beside the package.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Literal

from edgeres.errors import ArtefactError, UsageError

AssetKind = Literal["recipes", "calibration"]

_PACKAGE = Path(__file__).resolve().parent.parent


def asset_folder(kind: AssetKind) -> Path:
    """Folder with the shipped files of one kind.

    Raises:
        ArtefactError: The installation is incomplete.
    """
    places = [_PACKAGE / "assets" / kind]
    if (_PACKAGE.parent / "pyproject.toml").is_file():
        places.append(_PACKAGE.parent / kind)
    for place in places:
        if place.is_dir():
            return place
    raise ArtefactError(
        f"Expected the shipped {kind} in {' or '.join(repr(str(place)) for place in places)}, got "
        "no such folder.",
        hint="The installation is incomplete; install edgeres again.",
    )


def asset_path(kind: AssetKind, name: str) -> Path:
    """Path of one shipped file, e.g. ``asset_path("recipes", "default.yaml")``.

    Args:
        kind: Which folder.
        name: File name, with ``/`` where it lies in a folder below.

    Raises:
        UsageError: The name is empty, absolute or leaves the folder.
        ArtefactError: The installation is incomplete, or has no such file.
    """
    parts = PurePosixPath(name).parts
    if not parts or ".." in parts or PurePosixPath(name).is_absolute() or "\\" in name:
        raise UsageError(f"Expected the name of a file in the shipped {kind}, got {name!r}.")
    folder = asset_folder(kind)
    path = folder.joinpath(*parts)
    if not path.is_file():
        names = ", ".join(sorted(item.name for item in folder.iterdir() if item.is_file()))
        raise ArtefactError(
            f"Expected a shipped file {name!r} in {str(folder)!r}, got none.",
            hint=f"There are: {names or 'no files'}.",
        )
    return path
