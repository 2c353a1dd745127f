"""Self-test samples: a few validation samples, kept losslessly, that a bundle is checked with."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgeres.errors import ArtefactError, DataError
from edgeres.system.files import write_atomic
from edgeres.system.foreign_json import parse_json

if TYPE_CHECKING:
    from edgeres.data.types import Dataset

SAMPLES = 4
"""Images of a self-test: enough logits to tell clipped INT8 sums, few enough for every start."""

_TRIED = 4 * SAMPLES


def save_samples(dataset: Dataset, folder: Path) -> None:
    """Writes a few samples of different classes; those that cannot be read are passed over.

    Images go into PNG files, sounds into WAV, features into NumPy's. Images of other channels than
    grey or RGB have no PNG: of them none is written.

    Args:
        dataset: The validation samples.
        folder: Where ``sample-0.png`` or ``sample-0.npy`` and so on go.

    Raises:
        DataError: None of the first images can be read.
    """
    from edgeres.data.features import Features
    from edgeres.data.planes import Planes
    from edgeres.data.sampling import take
    from edgeres.data.sound import Sound

    candidates = take(dataset, min(_TRIED, len(dataset)))
    count = 0
    for index in range(len(candidates)):
        try:
            image = candidates.image(index)
        except DataError:
            continue
        if isinstance(image, Planes):
            return
        buffer = io.BytesIO()
        if isinstance(image, Sound):
            buffer.write(image.to_wav())
        elif isinstance(image, Features):
            np.save(buffer, image.values, allow_pickle=False)
        else:
            image.save(buffer, "PNG")
        ending = {Features: "npy", Sound: "wav"}.get(type(image), "png")
        write_atomic(folder / f"sample-{count}.{ending}", buffer.getvalue())
        count += 1
        if count == SAMPLES:
            return
    if not count:
        raise DataError(f"{dataset.name}: none of the first {len(candidates)} images can be read.")


def scores_to_json(scores: NDArray[np.float32]) -> bytes:
    """Expected scores ``(S, K)`` as JSON that gives back the same float32 values.

    Raises:
        ArtefactError: A score is NaN or infinite.
    """
    if not np.isfinite(scores).all():
        raise ArtefactError(
            "the engine's answers to the self-test samples are not finite.",
            hint="An engine that answers NaN cannot be bundled; see its report.",
        )
    return (json.dumps({"scores": scores.astype(float).tolist()}) + "\n").encode()


def scores_from_json(content: bytes, where: str, *, samples: int) -> NDArray[np.float32]:
    """Reads what :func:`scores_to_json` wrote.

    Args:
        content: The JSON.
        where: For messages.
        samples: How many there must be.

    Raises:
        ArtefactError: Not such scores.
    """
    try:
        scores = np.asarray(parse_json(content)["scores"], dtype=np.float32)
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
        raise ArtefactError(f"{where}: holds no scores ({error!r:.100}).") from error
    if scores.ndim != 2 or len(scores) != samples or not np.isfinite(scores).all():
        raise ArtefactError(
            f"{where}: expected finite scores of shape ({samples}, D), got {scores.shape}.",
            hint="Make the bundle again with `edgeres bundle`.",
        )
    return scores


def names_of(folder: Path) -> Sequence[Path]:
    """The samples that :func:`save_samples` left in a folder, in order."""
    found = [path for path in folder.glob("sample-*.*") if path.suffix in (".png", ".npy", ".wav")]
    return sorted(found, key=lambda path: (len(path.name), path.name))
