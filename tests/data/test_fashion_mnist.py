"""The embedded Fashion-MNIST: whole, balanced, apart from the test images, and made by the rule."""

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest

from edgeres.data.checks import check_calibration, check_classes
from edgeres.data.fashion_mnist import TRAINING_FOLDER, TRAINING_IMAGES, open_fashion_mnist
from edgeres.data.overlap import find_overlap
from edgeres.data.source import open_dataset
from edgeres.errors import DataError
from edgeres.system.assets import asset_folder

SCRIPT = Path(__file__).parents[2] / "scripts" / "make_calibration.py"
needs_full_set = pytest.mark.skipif(
    not (TRAINING_FOLDER / TRAINING_IMAGES).is_file(),
    reason="the full Fashion-MNIST is not here: apt-get install dataset-fashion-mnist",
)


def test_validation_is_the_test_split():
    dataset = open_dataset("fashion-mnist", split="validation")
    check_classes(dataset, 10)
    assert dataset.images.shape == (10_000, 28, 28)
    assert np.bincount(dataset.labels).tolist() == [1000] * 10
    assert dataset.class_names[9] == "Ankle boot"
    assert dataset.labels[:10].tolist() == [9, 2, 1, 1, 6, 1, 4, 6, 5, 7]


def test_every_beginning_of_the_calibration_sample_is_balanced():
    dataset = open_dataset("fashion-mnist", split="calibration")
    check_calibration(dataset)
    assert dataset.images.shape == (1024, 28, 28)
    for count in (10, 100, 512, 1000, 1024):
        found = np.bincount(dataset.labels[:count], minlength=10)
        assert found.max() - found.min() <= 1


def test_calibration_and_validation_share_no_image():
    calibration = open_dataset("fashion-mnist", split="calibration")
    assert find_overlap(calibration, open_dataset("fashion-mnist", split="validation")) == []
    assert len(np.unique(calibration.images.reshape(1024, -1), axis=0)) == 1024


@pytest.mark.parametrize("sums", ["SHA256SUMS", "SHA256SUMS.content"])
def test_files_have_their_sums(sums):
    folder = asset_folder("calibration")
    lines = (folder / sums).read_text().splitlines()
    assert len(lines) == 4
    for line in lines:
        expected, name = line.split("  ")
        if sums.endswith("content"):
            content = gzip.decompress((folder / f"{name}.gz").read_bytes())
        else:
            content = (folder / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == expected, name


def test_files_have_no_time_stamp_and_no_name():
    for path in asset_folder("calibration").glob("*.gz"):
        header = path.read_bytes()[:10]
        assert header[3] == 0, "flags: no name, no comment"
        assert header[4:8] == bytes(4), "time stamp"


def test_without_the_package_the_training_split_says_how_to_get_it(tmp_path):
    with pytest.raises(DataError, match="train-images") as caught:
        open_fashion_mnist("train", folder=tmp_path)
    assert "apt-get install dataset-fashion-mnist" in caught.value.hint
    assert "idx:IMAGES,LABELS" in caught.value.hint


@needs_full_set
def test_the_training_split_has_60_000_images():
    dataset = open_dataset("fashion-mnist", split="train")
    assert dataset.images.shape == (60_000, 28, 28)
    assert np.bincount(dataset.labels).tolist() == [6000] * 10


@needs_full_set
def test_the_program_makes_the_same_files(load_program):
    program = load_program(SCRIPT)
    for name, content in program.make_files(TRAINING_FOLDER).items():
        assert gzip.decompress((asset_folder("calibration") / name).read_bytes()) == content, name
    assert program.compress(b"abc") == program.compress(b"abc")
