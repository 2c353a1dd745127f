"""What the samples of a set are, and what of a preprocessing applies to them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgeres.data.features import Features
from edgeres.data.preprocess import Layout, Preprocess
from edgeres.data.sound import Sound
from edgeres.data.types import Dataset, Sample
from edgeres.errors import DataError, UsageError

_LOOKED_AT = 16
_IMAGES_ALONE = (
    "scale",
    "mean",
    "std",
    "resize",
    "crop",
    "channel_order",
    "interpolation",
    "antialias",
    "letterbox",
)


def preprocess_for(dataset: Dataset, preprocess: Preprocess) -> tuple[Preprocess, str]:
    """The preprocessing of a set, and what is to be said of it.

    Args:
        dataset: Any set; a few of its samples are read.
        preprocess: As a recipe or a model says it.

    Returns:
        The same for images and sounds; for features one with ``features`` set, which travels with
        the model. And a sentence where settings are not applied or sounds are resampled, empty
        where nothing is to be said.
    """
    samples = list(_some(dataset))
    if samples and isinstance(samples[0], Features):
        plain = Preprocess(channels=preprocess.channels, layout=preprocess.layout)
        idle = [name for name in _IMAGES_ALONE if getattr(preprocess, name) != getattr(plain, name)]
        idle += ["log_mel"] if preprocess.log_mel is not None else []
        note = (
            f"{dataset.name}: features are taken as they are; {', '.join(idle)} of the "
            "preprocessing are not applied."
        )
        chosen = replace(preprocess, features=True, log_mel=None)
        return chosen, note if idle and not preprocess.features else ""
    if preprocess.log_mel is not None:
        rate = preprocess.log_mel.sample_rate
        others = {s.rate for s in samples if isinstance(s, Sound)} - {rate}
        if others:
            listed = ", ".join(f"{other:,}" for other in sorted(others))
            return preprocess, f"{dataset.name}: sounds of {listed} Hz are resampled to {rate:,}."
    return preprocess, ""


def are_features(dataset: Dataset) -> bool:
    """Whether a set's samples are the network's input already."""
    return any(isinstance(sample, Features) for sample in _some(dataset))


def only_features(dataset: Dataset) -> bool:
    """Whether no sample that can be read is anything else than features; so too where none can."""
    return all(isinstance(sample, Features) for sample in _some(dataset))


def _some(dataset: Dataset) -> list[Sample]:
    found: list[Sample] = []
    places = np.linspace(0, len(dataset) - 1, min(_LOOKED_AT, len(dataset))).astype(int)
    for index in np.unique(places):
        try:
            found.append(dataset.image(int(index)))
        except DataError:
            continue
        if not isinstance(found[0], Sound):  # one of the others says what all are
            break
    return found


def of_pixels(preprocess: Preprocess, layout: Layout) -> Preprocess:
    """What is left to do before a network that has the rest inside: resizing and cropping.

    Its numbers are pixels in RGB order as they are.

    Raises:
        UsageError: Samples are no images.
    """
    if preprocess.features or preprocess.log_mel is not None:
        raise UsageError(
            "`export.input: uint8` is for images; this network takes features or sounds.",
            hint="Leave it out, or say `input: float` (--input float).",
        )
    return replace(
        preprocess, scale=1.0, mean=(0.0,), std=(1.0,), channel_order="rgb", layout=layout
    )
