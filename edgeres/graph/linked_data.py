"""Where weights really lie that a link beside the model points at, if that is a safe place.

Download caches (Hugging Face's ``models--NAME/snapshots/REVISION/``) hold links to
``models--NAME/blobs/HASH`` in place of files. A link is resolved once here, and what it points at
is then opened part by part without following any further one. It must lie

1. in the model's own folder, or
2. directly in the folder ``blobs`` beside the ``snapshots`` that the model's folder is in.

Anything else stays where it was named, and is refused there as a link.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

_SNAPSHOTS, _BLOBS = "snapshots", "blobs"


def plain_place(folder: Path, parts: Sequence[str]) -> tuple[Path, list[str]]:
    """The folder and the names below it that lead to a file without a link.

    Args:
        folder: Of the model.
        parts: Names below it, as the model gives them.

    Returns:
        Both as they came where the last name is no link, or one that leads elsewhere.
    """
    named = folder.joinpath(*parts)
    if not named.is_symlink():
        return folder, list(parts)
    root, target = Path(os.path.realpath(folder)), Path(os.path.realpath(named))
    if target.is_relative_to(root):
        return root, list(target.relative_to(root).parts)
    for place in root.parents:
        if place.name == _SNAPSHOTS and target.parent == place.parent / _BLOBS:
            return place.parent, [_BLOBS, target.name]
    return folder, list(parts)
