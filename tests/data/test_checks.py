"""Faults 17, 20 and 26: sets that no stage should begin with."""

import numpy as np
import pytest
from PIL import Image

from edgeres.data.arrays import ArrayDataset
from edgeres.data.checks import check_calibration, check_classes
from edgeres.data.files import FileDataset
from edgeres.errors import DataError


def labelled(labels, names=()):
    labels = np.array(labels, dtype=np.int64)
    return ArrayDataset("set", np.zeros((len(labels), 2, 2), np.uint8), labels, tuple(names))


def pictures(*values):
    images = np.array(values, dtype=np.uint8).reshape(-1, 1, 2)
    return ArrayDataset("set", images, np.full(len(images), -1, dtype=np.int64))


def test_matching_classes_pass():
    check_classes(labelled([0, 1, 2], "abc"), 3)
    check_classes(labelled([0, 5]), 1000)  # a list names no classes, so it may lack some


@pytest.mark.parametrize(
    ("dataset", "classes", "reason"),
    [
        (labelled([0, 1, 2], "abc"), 1000, "Expected 1000 classes, as the model has, got 3"),
        (labelled([0, 1, 2], "abc"), 2, "Expected 2 classes, as the model has, got 3"),
        (labelled([1, 2, 3]), 3, "labels of set count from 1: they go from 1 to 3"),
        (labelled([1, 2, 4]), 3, r"got 5 in set.* Its labels start at 1; they must count from 0"),
        (labelled([0, 9]), 5, "Expected 5 classes, as the model has, got 10"),
        (labelled([0, 0, 2], "abc"), 3, "none of 1 of 3: 'b'"),
        (labelled([1, 1], "ab"), 2, "at least two classes"),
        (labelled([1, 1]), 2, "at least two classes"),
        (labelled([0, -1, 1]), 2, r"got -1 for set\[1\]"),
        (labelled([], "ab"), 2, "got none"),
    ],
)
def test_classes_that_do_not_fit(dataset, classes, reason):
    with pytest.raises(DataError, match=reason):
        check_classes(dataset, classes)


def test_two_different_images_calibrate():
    check_calibration(pictures((1, 2), (1, 2), (1, 3)))


@pytest.mark.parametrize(
    ("dataset", "reason"),
    [
        (pictures(), "at least 2 images .* got 0"),
        (pictures((1, 2)), "at least 2 images .* got 1"),
        (pictures((1, 2), (1, 2), (1, 2)), "3 times the same pixels"),
    ],
)
def test_sets_that_cannot_calibrate(dataset, reason):
    with pytest.raises(DataError, match=reason):
        check_calibration(dataset)


def test_bad_images_are_passed_over(tmp_path):
    for index in range(4):
        Image.new("L", (1, 1), index // 3).save(tmp_path / f"{index}.png")
    names = tuple(f"{index}.png" for index in range(4))
    dataset = FileDataset("files", tmp_path, names, np.full(4, -1, dtype=np.int64))
    (tmp_path / "0.png").write_text("no image")
    check_calibration(dataset)
    (tmp_path / "3.png").write_text("no image")
    with pytest.raises(DataError, match="none that can be decoded"):
        check_calibration(dataset)
