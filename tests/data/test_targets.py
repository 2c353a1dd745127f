"""What is right for the samples of a set: labels, numbers, several targets, masks."""

import numpy as np
import pytest
from PIL import Image

from edgeres.data.arrays import ArrayDataset
from edgeres.data.batches import batches
from edgeres.data.preprocess import Preprocess
from edgeres.data.target_files import TargetFiles
from edgeres.data.targets import target_names, targets_of
from edgeres.errors import DataError

ROWS = np.array([2, 0])
PLAIN = Preprocess()


@pytest.fixture
def place(tmp_path):
    for index in range(3):
        pixels = np.arange(6 * 8, dtype=np.uint8).reshape(6, 8) + index
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
        Image.fromarray(pixels).save(tmp_path / f"mask{index}.png")
    return tmp_path


def files(place, **changes):
    paths = tuple(f"{index}.png" for index in range(3))
    return TargetFiles("list/validation", place, paths, np.full(3, -1), **changes)


def masked(place):
    return files(place, masks=tuple(f"mask{i}.png" for i in range(3)), columns=("mask",))


def test_a_labelled_set_has_its_labels_and_an_unlabelled_one_nothing():
    images = np.zeros((3, 2, 2), np.uint8)
    labelled = ArrayDataset("a", images, np.array([4, 5, 6]))
    assert targets_of(labelled, ROWS, PLAIN)[""].tolist() == [6, 4]
    assert target_names(labelled) == ("",)
    unlabelled = ArrayDataset("a", images, np.full(3, -1))
    assert targets_of(unlabelled, ROWS, PLAIN) == {}
    assert target_names(unlabelled) == ()


def test_one_target_is_nameless_and_several_have_names(place):
    ages = np.array([1.5, 2.5, 3.5])
    one = files(place, values={"age": ages}, columns=("age",))
    assert targets_of(one, ROWS, PLAIN)[""].tolist() == [3.5, 1.5]
    assert target_names(one) == ("age",)
    two = files(place, values={"age": ages, "class": np.arange(3)}, columns=("class", "age"))
    found = targets_of(two.subset([1, 2, 0]), ROWS, PLAIN)
    assert {name: values.tolist() for name, values in found.items()} == {
        "class": [0, 1],
        "age": [1.5, 2.5],
    }


@pytest.mark.parametrize(
    "preprocess",
    [
        PLAIN,
        Preprocess(crop=4),
        Preprocess(crop=(3, 12)),
        Preprocess(resize=3, interpolation="nearest"),
        Preprocess(resize=12, crop=(5, 7), interpolation="nearest"),
        Preprocess(resize=(7, 5), interpolation="nearest"),
    ],
)
def test_a_mask_goes_where_its_image_goes(place, preprocess):
    """The image is its own mask here; only what is added around it differs."""
    grey = Preprocess(**{**preprocess.to_dict(), "scale": 1.0, "channels": 1})
    dataset = masked(place)
    (images, _), *_ = batches(dataset, grey, 3)
    masks = targets_of(dataset, np.arange(3), grey)[""]
    assert masks.dtype == np.int32
    inside = masks != 255
    assert (images[:, 0][inside] == masks[inside]).all()
    assert (images[:, 0][~inside] == 0).all()
    assert inside.all() == (preprocess.crop != (3, 12))


@pytest.mark.parametrize(("mode", "values"), [("P", 5), ("1", 1), ("I;16", 4000)])
def test_a_mask_has_the_numbers_that_are_stored(place, mode, values):
    pixels = np.zeros((6, 8), np.uint16 if mode == "I;16" else np.uint8)
    pixels[0, 0] = values
    mask = Image.fromarray(pixels * 255) if mode == "1" else Image.fromarray(pixels)
    mask = mask.convert("1") if mode == "1" else mask
    if mode == "P":
        mask.putpalette([9] * 768)
    mask.save(place / "mask0.png")
    found = targets_of(masked(place), np.array([0]), PLAIN)[""]
    assert (found[0, 0, 0], found.sum()) == (values, values)


def test_an_image_that_lies_on_its_side_has_an_upright_mask(place):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("L", (6, 8)).save(place / "0.png", exif=exif)
    assert targets_of(masked(place), np.array([0]), PLAIN)[""].shape == (1, 6, 8)


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        (Image.new("L", (8, 7)), r"mask1\.png.* in the size of its image .*1\.png.*6x8, got 7x8"),
        (Image.new("RGB", (8, 6)), r"one class number .*mask1\.png.*RGB"),
        (None, r"mask1\.png.*No such file"),
        (b"\x89PNG\r\n\x1a\n", r"mask1\.png"),
    ],
)
def test_a_bad_mask_is_named(place, mask, reason):
    (place / "mask1.png").unlink()
    if isinstance(mask, bytes):
        (place / "mask1.png").write_bytes(mask)
    elif mask is not None:
        mask.save(place / "mask1.png")
    with pytest.raises(DataError, match=reason) as caught:
        targets_of(masked(place), np.arange(3), PLAIN)
    assert "\n" not in str(caught.value)


def test_masks_of_different_sizes_need_a_crop(place):
    for name in ("1.png", "mask1.png"):
        Image.new("L", (9, 9)).save(place / name)
    with pytest.raises(DataError, match=r"size of the first.*mask1\.png"):
        targets_of(masked(place), np.arange(3), PLAIN)
    assert targets_of(masked(place), np.arange(3), Preprocess(crop=4))[""].shape == (3, 4, 4)


def test_the_fingerprint_covers_every_target(place):
    ages = {"age": np.array([1.0, 2.0, 3.0])}
    known = {
        files(place).fingerprint,
        files(place, values=ages, columns=("age",)).fingerprint,
        files(place, values={"height": ages["age"]}, columns=("height",)).fingerprint,
        files(place, values={"age": -ages["age"]}, columns=("age",)).fingerprint,
        masked(place).fingerprint,
        masked(place).subset([0, 2, 1]).fingerprint,
    }
    assert masked(place).fingerprint in known
    Image.new("L", (8, 6)).save(place / "mask0.png")
    known.add(masked(place).fingerprint)
    assert len(known) == 7
