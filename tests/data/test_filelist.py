"""Lists of image files: MLPerf's two formats, and lines that cannot be meant."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edgeres.data.filelist import open_list, parse_list
from edgeres.errors import DataError

# The formats of MLPerf's val_map.txt and cal_image_list_option_1.txt.
VALIDATION = "ILSVRC2012_val_00000001.JPEG 65\nILSVRC2012_val_00000002.JPEG 970\n"
CALIBRATION = "ILSVRC2012_val_00027145.JPEG\nILSVRC2012_val_00042168.JPEG\n"


def test_a_validation_list_has_labels():
    parsed = parse_list(VALIDATION)
    assert parsed.paths == ("ILSVRC2012_val_00000001.JPEG", "ILSVRC2012_val_00000002.JPEG")
    assert parsed.labels.tolist() == [65, 970]


def test_a_calibration_list_has_only_names():
    parsed = parse_list(CALIBRATION)
    assert parsed.paths == ("ILSVRC2012_val_00027145.JPEG", "ILSVRC2012_val_00042168.JPEG")
    assert parsed.labels is None


def test_blanks_tabs_line_ends_and_empty_lines():
    parsed = parse_list("\n  my cat.png\t3\r\n\r\nb 2.png   4  \n")
    assert parsed.paths == ("my cat.png", "b 2.png")
    assert parsed.labels.tolist() == [3, 4]


def test_a_few_names_that_end_in_a_number_are_still_names():
    assert parse_list("a.png\nb.png\nphoto 3\n").paths[2] == "photo 3"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty list"),
        ("\n \n", "empty list"),
        ("a.png 1\nb.png 2\nc.png\n", "line 3"),
        ("a.png 1\nb.png 2\nc.png -1\n", "line 3"),
        ("a.png 1\n\na.png 2\n", "'a.png' in lines 1 and 3"),
    ],
)
def test_lines_that_cannot_be_meant(text, reason):
    with pytest.raises(DataError, match=reason):
        parse_list(text, "my.txt")


names = st.text(
    st.characters(codec="utf-8", exclude_characters="\n\r\t \x00"), min_size=1, max_size=8
)


@settings(deadline=None)
@given(
    st.lists(st.tuples(names, st.integers(0, 999_999_999)), min_size=1, unique_by=lambda p: p[0])
)
def test_labelled_lists_round_trip(pairs):
    parsed = parse_list("".join(f"{name} {label}\n" for name, label in pairs))
    assert parsed.paths == tuple(name for name, _ in pairs)
    assert parsed.labels.tolist() == [label for _, label in pairs]


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    for index, name in enumerate(["a.png", "b c.png", os.fsdecode(b"\xff.png")]):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.new("L", (1, 1), index).save(folder / name)
    return folder


def test_paths_are_relative_to_the_list_or_to_the_root(images, tmp_path):
    (images / "val.txt").write_bytes(b"a.png 0\nb c.png 1\n\xff.png 7\n")
    dataset = open_list(images / "val.txt", None, "validation")
    assert [dataset.image(index).getpixel((0, 0)) for index in range(3)] == [0, 1, 2]
    assert dataset.labels.tolist() == [0, 1, 7]
    assert dataset.class_names == ()
    assert dataset.image_name(2).isprintable()
    (tmp_path / "elsewhere.txt").write_text("\ufeffb c.png\n", "utf-8")
    dataset = open_list(tmp_path / "elsewhere.txt", images, "calibration")
    assert dataset.paths == ("b c.png",)
    assert dataset.labels.tolist() == [-1]


def test_a_folder_has_a_list_for_each_split(images):
    (images / "train.txt").write_text("a.png 0\n")
    (images / "val_map.txt").write_text("b c.png 1\n")
    assert open_list(images, None, "validation").paths == ("b c.png",)
    assert open_list(images, None, "calibration").paths == ("a.png",)
    (images / "calibration.txt").write_text("b c.png\n")
    assert open_list(images, None, "calibration").paths == ("b c.png",)
    (images / "val_map.txt").unlink()
    with pytest.raises(DataError, match=r"val\.txt .* for the validation split"):
        open_list(images, None, "validation")


def test_missing_files_are_counted_and_the_first_named(images, tmp_path):
    (tmp_path / "val.txt").write_text("a.png 0\nb c.png 1\nimages/a.png 2\n")
    with pytest.raises(DataError, match=r"all 3 files .* 2 missing, e\.g\. 'a\.png'") as caught:
        open_list(tmp_path / "val.txt", None, "validation")
    assert "list:FILE,ROOT" in caught.value.hint


def test_a_list_of_names_is_not_for_validation(images):
    (images / "names.txt").write_text("a.png\nb c.png\n")
    with pytest.raises(DataError, match="got only paths"):
        open_list(images / "names.txt", None, "validation")


def test_what_is_not_a_list_is_named(tmp_path):
    with pytest.raises(DataError, match="No such file"):
        open_list(tmp_path / "none.txt", None, "validation")
    (tmp_path / "image.txt").write_bytes(b"\x89PNG\0\0")
    with pytest.raises(DataError, match="zero bytes"):
        open_list(tmp_path / "image.txt", None, "validation")
