"""Folders as people have them: names of splits, one level more, things beside, refusals."""

import pytest
from PIL import Image

from edgeres.data.files import skipped_note
from edgeres.data.imagefolder import open_imagefolder
from edgeres.errors import DataError


def put(root, *names):
    for place, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (2, 2), place).save(path, "PNG")


def both(root, train, val):
    put(root, *(f"{split}/{c}/{split}.png" for split in (train, val) for c in ("cat", "dog")))


@pytest.mark.parametrize(
    ("train", "val"),
    [("train", "val"), ("train", "valid"), ("Train", "Test"), ("training", "testing"),
     ("TRAIN", "Validation"), ("train", "dev")],
)  # fmt: skip
@pytest.mark.parametrize("above", ["", "archive/"])
def test_usual_names_of_splits(tmp_path, train, val, above):
    both(tmp_path, above + train, above + val)
    for split, folder in (("train", train), ("calibration", train), ("validation", val)):
        found = open_imagefolder(tmp_path, split)
        assert found.class_names == ("cat", "dog")
        assert str(found.root) == str(tmp_path / f"{above}{folder}")
        assert ("one level deeper, in 'archive'" in skipped_note(found)) == bool(above)


def test_of_valid_and_test_the_one_with_classes_is_taken(tmp_path):
    both(tmp_path, "train", "valid")
    put(tmp_path, "test/1.png")
    assert open_imagefolder(tmp_path, "validation").root.name == "valid"
    both(tmp_path / "more", "train", "test")
    put(tmp_path / "more", "val/1.png")  # without labels, and named first
    assert open_imagefolder(tmp_path / "more", "validation").root.name == "test"


def test_other_things_beside_splits_are_said(tmp_path):
    both(tmp_path, "train", "val")
    put(tmp_path, "extra/1.png")
    found = open_imagefolder(tmp_path, "validation")
    assert found.class_names == ("cat", "dog")
    assert "'extra' beside the splits" in skipped_note(found)


def test_a_class_may_have_the_name_of_a_split(tmp_path):
    put(tmp_path, "train/1.png", "car/2.png", "bus/3.png")
    assert open_imagefolder(tmp_path, "validation").class_names == ("bus", "car", "train")
    put(tmp_path, "test/4.png")  # of another kind, yet none of them holds classes
    assert open_imagefolder(tmp_path, "train").class_names == ("bus", "car", "test", "train")


def test_one_class_alone_is_no_level(tmp_path):
    put(tmp_path, "cat/young/1.png", "cat/old/2.png", "cat/3.png")
    assert open_imagefolder(tmp_path, "calibration").root == tmp_path


def test_unnamed_splits_are_refused(tmp_path):
    both(tmp_path, "fold1", "fold2")
    with pytest.raises(DataError, match=r"'fold1', 'fold2' .* hold the same 2 folders") as caught:
        open_imagefolder(tmp_path, "validation")
    assert "Name them train and val" in caught.value.hint
    put(tmp_path, "fold1/own.png")  # a class with images of its own and folders in it
    assert open_imagefolder(tmp_path, "validation").class_names == ("fold1", "fold2")


def test_subfolders_of_classes_are_no_splits(tmp_path):
    put(tmp_path, "cat/2023/1.png", "cat/2024/2.png", "dog/2023/3.png", "dog/2025/4.png")
    assert open_imagefolder(tmp_path, "train").class_names == ("cat", "dog")


def test_endings_that_are_not_read_are_counted(tmp_path):
    put(tmp_path, "cat/1.png", "dog/2.jfif")
    for name in ("cat/a.raw", "cat/b.RAW", "dog/notes.txt", "dog/noending"):
        (tmp_path / name).write_bytes(b"x")
    found = open_imagefolder(tmp_path, "validation")
    assert len(found) == 2
    assert "files of endings that are not read: 2 of .raw, 1 of " in skipped_note(found)


def test_images_without_folders_say_what_to_do(tmp_path):
    put(tmp_path, "1.png", "2.png")
    with pytest.raises(DataError, match="2 images without one") as caught:
        open_imagefolder(tmp_path, "validation")
    assert "--task outputs" in caught.value.hint
