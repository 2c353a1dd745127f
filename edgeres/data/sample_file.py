"""One file to one sample, by its ending: an image, a sound, or features in ``.npy``."""

from __future__ import annotations

from pathlib import Path

from edgeres.data.decode import decode_file
from edgeres.data.features import as_features
from edgeres.data.npy import map_npy
from edgeres.data.sound import is_sound, read_sound
from edgeres.data.types import Sample


def read_sample(path: Path) -> Sample:
    """Reads a file that a person or a bundle names.

    Args:
        path: An image, a WAV or FLAC file, or an ``.npy`` file with the features of one sample,
            without the batch dimension.

    Raises:
        DataError: It is missing, damaged or none of these; the message names it.
    """
    if path.suffix.lower() == ".npy":
        return as_features(map_npy(path), repr(str(path)))
    return read_sound(path) if is_sound(path) else decode_file(path)
