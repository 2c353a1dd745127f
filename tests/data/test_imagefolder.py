"""Folders of class folders: torchvision's order, splits, and what cannot be a data set."""

import os

import numpy as np
import pytest
from PIL import Image

from edgeres.data.files import skipped_note
from edgeres.data.imagefolder import EXTENSIONS, open_imagefolder
from edgeres.errors import DataError


def put(root, *names):
    for place, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (2, 2), place).save(path, "PNG")


@pytest.fixture
def folder(tmp_path):
    """Names chosen so that naive sorting differs: case, digits, blanks, depth, separators."""
    put(
        tmp_path,
        "dog/b.png", "dog/a.PNG", "dog/10.jpg", "dog/9.jpg", "dog/sub/z.png", "dog/sub-x/a.png",
        "dog/sub.x/a.png", "dog/sub/deep/q.png", "Cat/1.jpeg", "Cat/deep/er/2.webp",
        "10 birds/x.bmp", "9 birds/ y.tiff", "\u00e4pfel/a.ppm",
    )  # fmt: skip
    (tmp_path / "dog" / "notes.txt").write_text("no image")
    (tmp_path / "dog" / "trap.jpg").mkdir()
    (tmp_path / "README.md").write_text("no class")
    return tmp_path


def test_order_and_labels_are_torchvisions(torchvision, folder):
    reference = torchvision.datasets.ImageFolder(str(folder))
    dataset = open_imagefolder(folder, "validation")
    assert list(dataset.class_names) == reference.classes
    assert [str(folder / path) for path in dataset.paths] == [path for path, _ in reference.samples]
    assert dataset.labels.tolist() == reference.targets


def test_extensions_are_torchvisions_and_more(torchvision):
    known = torchvision.datasets.folder.IMG_EXTENSIONS
    assert EXTENSIONS[: len(known)] == known


def test_golden_order(folder):
    dataset = open_imagefolder(folder, "train")
    assert dataset.class_names == ("10 birds", "9 birds", "Cat", "dog", "\u00e4pfel")
    assert dataset.paths[4:12] == (
        "dog/10.jpg", "dog/9.jpg", "dog/a.PNG", "dog/b.png", "dog/sub/z.png", "dog/sub-x/a.png",
        "dog/sub.x/a.png", "dog/sub/deep/q.png",
    )  # fmt: skip
    assert dataset.labels.tolist() == [0, 1, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3, 4]
    assert np.asarray(dataset.image(5)).tolist() == [[3, 3], [3, 3]]


def test_a_loop_of_links_ends(folder):
    (folder / "Cat" / "self").symlink_to(folder / "Cat")
    (folder / "dog" / "up").symlink_to("..")
    (folder / "dog" / "dangling").symlink_to("nowhere")
    paths = open_imagefolder(folder, "validation").paths
    assert sum(path.startswith("Cat/") for path in paths) == 2
    # 'up' leads out of the class once, through its sibling classes, and never into dog again
    assert not any("up/dog" in path for path in paths)


def test_a_link_to_another_folder_is_followed_as_torchvision_does(torchvision, folder, tmp_path):
    (folder / "dog" / "more").symlink_to(folder / "Cat")
    reference = torchvision.datasets.ImageFolder(str(folder))
    dataset = open_imagefolder(folder, "validation")
    assert [str(folder / path) for path in dataset.paths] == [path for path, _ in reference.samples]


def test_odd_names_are_read(folder):
    name = os.fsdecode(b"Cat/\xff\xfe\n.png")
    put(folder, name)
    dataset = open_imagefolder(folder, "validation")
    index = dataset.paths.index(name)
    assert dataset.image(index).size == (2, 2)
    assert dataset.image_name(index).isprintable()
    assert len(dataset.fingerprint) == 64


def test_splits_have_their_folders(tmp_path):
    put(tmp_path, "train/a/1.png", "train/b/2.png", "val/a/3.png", "val/b/4.png")
    assert open_imagefolder(tmp_path, "train").paths == ("a/1.png", "b/2.png")
    assert open_imagefolder(tmp_path, "validation").paths == ("a/3.png", "b/4.png")
    assert open_imagefolder(tmp_path, "calibration").paths == ("a/1.png", "b/2.png")
    put(tmp_path, "calibration/9.png")
    calibration = open_imagefolder(tmp_path, "calibration")
    assert calibration.paths == ("9.png",)
    assert calibration.labels.tolist() == [-1]


def test_a_class_may_be_named_train(tmp_path):
    put(tmp_path, "train/1.png", "bus/2.png")
    assert open_imagefolder(tmp_path, "validation").class_names == ("bus", "train")


def test_a_split_without_its_folder_is_named(tmp_path):
    put(tmp_path, "train/a/1.png", "train/b/2.png")
    with pytest.raises(DataError, match=r"'val' or .* for the validation split"):
        open_imagefolder(tmp_path, "validation")


def test_an_empty_class_is_named_unless_for_calibration(tmp_path):
    put(tmp_path, "a/1.png", "c/1.png")
    (tmp_path / "b").mkdir()
    with pytest.raises(DataError, match=r"none in 1 of 3: 'b'"):
        open_imagefolder(tmp_path, "validation")
    assert len(open_imagefolder(tmp_path, "calibration")) == 2


def test_one_class_and_no_class_are_refused(tmp_path):
    with pytest.raises(DataError, match="0 folders and no image"):
        open_imagefolder(tmp_path, "validation")
    with pytest.raises(DataError, match="got none"):
        open_imagefolder(tmp_path, "calibration")
    put(tmp_path, "a/1.png")
    with pytest.raises(DataError, match="at least two class folders"):
        open_imagefolder(tmp_path, "validation")
    assert len(open_imagefolder(tmp_path, "calibration")) == 1


def test_a_missing_folder_and_a_file_are_named(tmp_path):
    (tmp_path / "file").write_text("")
    for name, reason in [("none", "No such file"), ("file", "Not a directory"), ("a\0b", "null")]:
        with pytest.raises(DataError, match=reason):
            open_imagefolder(tmp_path / name, "validation")


def test_the_fingerprint_follows_names_content_and_labels(tmp_path):
    put(tmp_path, "a/1.png", "b/2.png")
    before = open_imagefolder(tmp_path, "validation").fingerprint
    assert open_imagefolder(tmp_path, "validation").fingerprint == before
    image = tmp_path / "a" / "1.png"
    image.write_bytes(bytes(image.stat().st_size))
    changed = open_imagefolder(tmp_path, "validation").fingerprint
    (tmp_path / "a").rename(tmp_path / "c")
    renamed = open_imagefolder(tmp_path, "validation").fingerprint
    assert len({before, changed, renamed}) == 3
    dataset = open_imagefolder(tmp_path, "validation")
    assert dataset.subset([1, 0]).fingerprint != dataset.fingerprint
    assert dataset.subset([1, 0]).labels.tolist() == [1, 0]


def test_what_programs_left_behind_is_skipped_and_said(tmp_path):
    image = Image.new("L", (4, 4))
    for folder in ("cat", "dog", ".ipynb_checkpoints", "__MACOSX", "cat/.thumbs"):
        (tmp_path / folder).mkdir()
        image.save(tmp_path / folder / "a.png")
    (tmp_path / "dog" / "._a.jpg").write_bytes(b"\0\5\x16\7")
    (tmp_path / "dog" / ".DS_Store").write_bytes(b"x")
    for split in ("validation", "calibration"):
        found = open_imagefolder(tmp_path, split)
        assert found.class_names == ("cat", "dog")
        assert found.paths == ("cat/a.png", "dog/a.png")
        assert skipped_note(found) == (
            f"imagefolder/{split}: skipped the folder '.ipynb_checkpoints', the folder '__MACOSX', "
            "the folder 'cat/.thumbs', 'dog/._a.jpg'."
        )
    assert skipped_note(found.subset([0]))
    (tmp_path / "plain" / "cat").mkdir(parents=True)
    (tmp_path / "plain" / "dog").mkdir()
    for folder in ("cat", "dog"):
        image.save(tmp_path / "plain" / folder / "a.png")
    assert skipped_note(open_imagefolder(tmp_path / "plain", "validation")) == ""
