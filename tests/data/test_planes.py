"""Images of other channels than grey or RGB, from an array to the network's input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeres.data.batches import batches
from edgeres.data.npz import open_npz
from edgeres.data.preprocess import Preprocess
from edgeres.errors import DataError

RANDOM = np.random.default_rng(29)


def saved(path: Path, channels: int) -> Path:
    images = RANDOM.integers(0, 256, (5, 12, 10, channels), np.uint8)
    np.savez(path, images=images, labels=np.arange(5))
    return path


@pytest.mark.parametrize("channels", [2, 4, 6])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_each_plane_is_treated_alone(tmp_path: Path, channels: int, layout: str) -> None:
    dataset = open_npz(saved(tmp_path / "a.npz", channels), "validation")
    mean = tuple(float(number) for number in range(channels))
    plain = Preprocess(scale=0.5, mean=mean, channels=channels, layout=layout)
    (found, _), *_ = batches(dataset, plain, 5)
    right = dataset.images.astype(np.float32) * 0.5 - np.arange(channels, dtype=np.float32)
    np.testing.assert_array_equal(found, right if layout == "nhwc" else right.transpose(0, 3, 1, 2))
    smaller = Preprocess(scale=1, channels=channels, resize=(6, 5), crop=4)
    (found, _), *_ = batches(dataset, smaller, 5)
    for plane in range(channels):
        alone = Preprocess(scale=1, channels=1, resize=(6, 5), crop=4)
        image = Image.fromarray(dataset.images[3, ..., plane])
        np.testing.assert_array_equal(found[3, plane], alone.apply(image)[0])


@pytest.mark.parametrize(("has", "takes"), [(4, 3), (4, 6), (3, 4), (1, 4), (4, 1)])
def test_channels_are_never_invented_or_dropped(tmp_path: Path, has: int, takes: int) -> None:
    dataset = open_npz(saved(tmp_path / "a.npz", has), "validation")
    with pytest.raises(DataError, match=f"Expected an image of {takes} channels"):
        list(batches(dataset, Preprocess(channels=takes), 5))
