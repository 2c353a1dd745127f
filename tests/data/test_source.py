"""The words after --data: every form opens, every slip gets one clear line."""

import numpy as np
import pytest
from PIL import Image

from edgeres.data.arrays import ArrayDataset
from edgeres.data.files import FileDataset
from edgeres.data.source import folder_kind, open_dataset
from edgeres.errors import DataError, UsageError


def idx(values):
    header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
    return header + values.tobytes()


@pytest.fixture
def place(tmp_path):
    (tmp_path / "i,mages").write_bytes(idx(np.zeros((2, 3, 3), np.uint8)))
    (tmp_path / "labels").write_bytes(idx(np.array([0, 1], np.uint8)))
    np.savez(tmp_path / "a.npz", images=np.zeros((2, 3, 3), np.uint8), labels=[0, 1])
    for name in ["folder/a/1.png", "folder/b/2.png"]:
        (tmp_path / name).parent.mkdir(parents=True)
        Image.new("L", (3, 3)).save(tmp_path / name)
    (tmp_path / "names.txt").write_text("a/1.png 0\nb/2.png 1\n")
    (tmp_path / "folder" / "names.txt").write_text("a/1.png 0\nb/2.png 1\n")
    return tmp_path


@pytest.mark.parametrize(
    ("spec", "kind"),
    [
        ("idx:{0}/i,mages,{0}/labels", ArrayDataset),
        ("npz:{0}/a.npz", ArrayDataset),
        ("imagefolder:{0}/folder", FileDataset),
        ("list:{0}/folder/names.txt", FileDataset),
        ("list:{0}/names.txt,{0}/folder", FileDataset),
    ],
)
@pytest.mark.parametrize("split", ["train", "validation", "calibration"])
def test_every_form_opens(place, spec, kind, split):
    dataset = open_dataset(spec.format(place), split=split)
    assert isinstance(dataset, kind)
    assert dataset.labels.tolist() == [0, 1]
    assert dataset.image(1).size == (3, 3)
    assert split in dataset.name
    assert len(dataset.fingerprint) == 64
    assert dataset.subset([1]).labels.tolist() == [1]


def test_home_is_filled_in(place, monkeypatch):
    monkeypatch.setenv("HOME", str(place))
    assert len(open_dataset("npz:~/a.npz", split="validation")) == 2
    assert len(open_dataset("idx:~/i,mages,~/labels", split="validation")) == 2


@pytest.mark.parametrize(
    ("spec", "hint"),
    [
        ("", ""),
        ("fashion-minst", "'fashion-mnist'"),
        ("image-folder:x", "'imagefolder'"),
        ("fashion-mnist:x", ""),
        ("npz:", "npz:PATH"),
        ("idx:a,", ""),
        ("csv:x", ""),
    ],
)
def test_a_slip_in_the_form_is_a_usage_error(spec, hint):
    with pytest.raises(UsageError, match="Expected") as caught:
        open_dataset(spec, split="validation")
    assert hint in caught.value.hint
    assert caught.value.exit_code == 2


def test_a_bare_folder_is_what_lies_in_it(place):
    dataset = open_dataset(str(place / "folder"), split="validation")
    assert dataset.name == "imagefolder/validation"
    for name in ("a/1.wav", "b/2.FLAC"):
        (place / "sounds" / name).parent.mkdir(parents=True)
        (place / "sounds" / name).write_bytes(b"")
    dataset = open_dataset(str(place / "sounds"), split="validation")
    assert dataset.name == "audiofolder/validation"
    assert dataset.labels.tolist() == [0, 1]
    (place / "folder" / "a" / "1.wav").write_bytes(b"")
    with pytest.raises(UsageError, match="images and sounds"):
        folder_kind(place / "folder" / "a")


@pytest.mark.parametrize(
    "spec", ["idx:no/images,no/labels", "npz:no.npz", "imagefolder:no", "list:no.txt"]
)
def test_missing_files_are_bad_data(spec):
    with pytest.raises(DataError, match="no"):
        open_dataset(spec, split="validation")


def test_an_empty_set_is_bad_data(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.zeros((0, 3, 3), np.uint8), labels=np.zeros(0, int))
    with pytest.raises(DataError, match="empty set"):
        open_dataset(f"npz:{tmp_path}/a.npz", split="validation")


@pytest.mark.parametrize("spec", ["idx:{0}/i,mages", "npz:{0}/b.npz", "imagefolder:{0}/folder/a"])
def test_labels_are_needed_unless_somebody_says_otherwise(place, spec):
    np.savez(place / "b.npz", images=np.zeros((2, 3, 3), np.uint8))
    with pytest.raises((DataError, UsageError)):
        open_dataset(spec.format(place), split="validation")
    dataset = open_dataset(spec.format(place), split="validation", labels_needed=False)
    assert set(dataset.labels.tolist()) == {-1}
