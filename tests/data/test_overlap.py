"""Fault 25: the same picture in two sets is found by its pixels."""

import numpy as np
import pytest
from PIL import Image

from edgeres.data.arrays import ArrayDataset
from edgeres.data.files import FileDataset
from edgeres.data.overlap import find_overlap


def noise(count, *shape, seed):
    images = np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)
    return ArrayDataset("noise", images, np.zeros(count, dtype=np.int64))


def test_shared_images_are_found_with_their_places():
    validation = noise(50, 8, 8, seed=1)
    other = noise(5, 8, 8, seed=2)
    images = np.concatenate([other.images, validation.images[[30, 7]]])
    calibration = ArrayDataset("c", images, np.zeros(7, dtype=np.int64))
    assert find_overlap(calibration, validation) == [(5, 30), (6, 7)]
    assert find_overlap(other, validation) == []


def test_a_picture_that_repeats_is_reported_once():
    validation = noise(3, 4, 4, seed=1).subset([0, 1, 1, 2, 1])
    assert find_overlap(validation.subset([1, 2]), validation) == [(0, 1), (1, 1)]


@pytest.mark.parametrize("workers", [0, 2])
def test_format_name_and_mode_do_not_matter(tmp_path, workers):
    source = noise(3, 5, 4, seed=3)
    for index, name in enumerate(["a.png", "b.bmp", "c.tiff"]):
        source.image(index).convert("RGB" if index else "L").save(tmp_path / name)
    (tmp_path / "d.png").write_text("no image")
    (tmp_path / "e.png").write_text("no image")
    labels = np.zeros(4, dtype=np.int64)
    first = FileDataset("f", tmp_path, ("d.png", "c.tiff", "a.png", "b.bmp"), labels)
    seen = []
    found = find_overlap(
        first, source, workers=workers, progress=lambda done, total: seen.append((done, total))
    )
    assert found == [(1, 2), (2, 0), (3, 1)]
    assert seen == [(done, 7) for done in range(1, 8)]
    bad = FileDataset("g", tmp_path, ("e.png",), labels[:1])
    assert find_overlap(bad, first) == [], "two files that cannot be read are not the same picture"


def test_same_bytes_in_another_shape_are_another_picture():
    flat = ArrayDataset("a", np.zeros((1, 2, 8), np.uint8), np.zeros(1, dtype=np.int64))
    tall = ArrayDataset("b", np.zeros((1, 8, 2), np.uint8), np.zeros(1, dtype=np.int64))
    assert find_overlap(flat, tall) == []


def test_one_changed_pixel_is_another_picture():
    validation = noise(4, 6, 6, seed=5)
    images = validation.images.copy()
    images[2, 5, 5] ^= 1
    changed = ArrayDataset("c", images, validation.labels)
    assert [pair[0] for pair in find_overlap(changed, validation)] == [0, 1, 3]


def test_colour_that_differs_in_one_channel_is_not_grey():
    grey = np.full((1, 3, 3), 9, np.uint8)
    colour = np.repeat(grey[..., None], 3, axis=3)
    label = np.zeros(1, dtype=np.int64)
    assert find_overlap(ArrayDataset("a", grey, label), ArrayDataset("b", colour, label))
    colour[0, 2, 2, 2] = 10
    assert not find_overlap(ArrayDataset("a", grey, label), ArrayDataset("b", colour, label))
    assert Image.fromarray(colour[0]).mode == "RGB"
