"""Image sets in memory agree with the preprocessing that deployment uses."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgeres.data.arrays import ArrayDataset
from edgeres.data.preprocess import Preprocess
from edgeres.errors import DataError
from edgeres.training import pixels
from edgeres.training.pixels import load_pixels


def colour_set(count: int = 6) -> ArrayDataset:
    images = np.random.default_rng(0).integers(0, 256, (count, 12, 10, 3), dtype=np.uint8)
    return ArrayDataset("colour", images, np.arange(count, dtype=np.int64) % 2, ("a", "b"))


@pytest.mark.parametrize(
    "preprocess",
    [
        Preprocess(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6)),
        Preprocess(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), channel_order="bgr", crop=8),
        Preprocess(resize=(9, 9), layout="nhwc"),
        Preprocess(mean=(0.3,), std=(0.4,), channels=1, resize=16, crop=14),
    ],
)
def test_same_numbers_as_preprocess(preprocess: Preprocess) -> None:
    data = colour_set()
    loaded = load_pixels(data, preprocess)
    result = loaded.normalization.apply(loaded.pixels).numpy()
    for index in range(len(data)):
        expected = preprocess.apply(data.image(index))
        if preprocess.layout == "nhwc":
            expected = expected.transpose(2, 0, 1)
        assert np.abs(result[index] - expected).max() < 1e-6
    assert loaded.labels.tolist() == data.labels.tolist()
    assert loaded.pixels.is_contiguous(memory_format=torch.channels_last)


class TwoSizes(ArrayDataset):
    """The second image is smaller."""

    def image(self, index: int):  # type: ignore[no-untyped-def]
        whole = super().image(index)
        return whole.crop((0, 0, 5, 5)) if index == 1 else whole


def test_images_of_different_sizes() -> None:
    data = colour_set()
    uneven = TwoSizes("uneven", data.images, data.labels, data.class_names)
    with pytest.raises(DataError, match="Image 1 of 'uneven'") as caught:
        load_pixels(uneven, Preprocess())
    assert "resize" in caught.value.hint


def test_too_many_bytes_are_refused_before_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "MAX_BYTES", 6 * 12 * 10 * 3 - 1)
    with pytest.raises(DataError, match="in memory"):
        load_pixels(colour_set(), Preprocess())


def test_progress_counts_images() -> None:
    seen: list[tuple[int, int]] = []
    data = ArrayDataset("many", np.zeros((2500, 1, 1), np.uint8), np.zeros(2500, np.int64))
    load_pixels(data, Preprocess(channels=1), progress=lambda *step: seen.append(step))
    assert seen == [(1000, 2500), (2000, 2500)]
