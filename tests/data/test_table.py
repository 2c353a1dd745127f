"""Lists with a header: every kind of column, and cells that cannot be meant."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edgeres.data.filelist import open_list
from edgeres.data.files import skipped_note
from edgeres.data.preprocess import Preprocess
from edgeres.data.source import open_dataset
from edgeres.data.table import is_table, parse_table
from edgeres.data.targets import target_names, targets_of
from edgeres.errors import DataError


def columns(text):
    table = parse_table(text, "my.csv")
    return {name: table.values[name].tolist() for name in table.columns}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("file,label\na.png,3\nb.png,0\n", {"label": [3, 0]}),
        ("path\tclass\r\na.png\tdog\r\nb.png\tcat\r\n", {"class": [1, 0]}),
        ("\ufeffFile;Age\na.png;3.5\nb.png;-1e3\n", {"Age": [3.5, -1000.0]}),
        ('"file","age"\n"a, b.png","1"\n\nb.png, 2 \n', {"age": [1.0, 2.0]}),
        ("file,labels\na.png,dog|cat\nb.png,\n", {"labels": [[1, 1], [0, 0]]}),
        ("file,label\na.png,dog|cat\nb.png,cat\n", {"label": [[1, 1], [1, 0]]}),
        ('file,"labels:b,a,c"\na.png,a|b\nb.png,c\n', {"labels": [[1, 1, 0], [0, 0, 1]]}),
        ("file,labels:b|a\na.png,a\nb.png,b | a\n", {"labels": [[0, 1], [1, 1]]}),
        ("file,labels:cat,dog\na.png,0,1\nb.png,1,1\n", {"labels": [[0, 1], [1, 1]]}),
        (
            "age,file,x:a,x:b,y:c,label\n1,a.png,0,1,1,5\n2,b.png,1,0,0,6\n",
            {"age": [1, 2], "label": [5, 6], "x": [[0, 1], [1, 0]], "y": [[1], [0]]},
        ),
    ],
)
def test_columns_of_every_kind(text, found):
    assert is_table(text)
    assert columns(text) == found


def test_names_of_classes_and_of_several_labels():
    assert parse_table("file,label\na,0\nb,1\n").class_names == ()
    assert parse_table("file,label\na,dog\nb,cat\n").class_names == ("cat", "dog")
    assert parse_table("file,labels:z|y\na,z\nb,\n").class_names == ("z", "y")
    assert parse_table("file,labels:z,y\na,1,0\nb,1,1\n").class_names == ("z", "y")


@pytest.mark.parametrize(
    "text", ["a.png 1\n", "a.png\nb.png\n", "file.png 3\n", "my file 3\n", "image\t3\n"]
)
def test_the_old_forms_are_no_tables(text):
    assert not is_table(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("file,age\n", "only a header"),
        ("file,age\na,1\nb,2,3\n", "Expected 2 columns in line 3 of 'my.csv'.*got 3"),
        ("file,age\na,1\n\nb\n", "Expected 2 columns in line 4"),
        ("file,age,age\na,1,1\n", "names of their own in line 1"),
        ("file,\na,1\n", "names of their own in line 1"),
        ("file,path\na,b\n", "one column of files"),
        ("file,age\na,1\na,2\n", "'a' in lines 2 and 3"),
        ("file,age\na,1\n,2\n", "a path in the column 'file' in line 3"),
        ("file,age\na,1\nb,2\nc,old\n", "finite number in the column 'age' in line 4.*'old'"),
        ("file,age\na,1\nb,2\nc,nan\n", "finite number in the column 'age' in line 4"),
        ("file,age\na,1\nb,2\nc,1e999\n", "finite number in the column 'age' in line 4"),
        ("file,age\na,1\nb,2\nc,\n", "finite number in the column 'age' in line 4.*''"),
        ("file,label\na,1\nb,2\nc,-1\n", "class number .* in the column 'label' in line 4.*'-1'"),
        ("file,label\na,1\nb,2\nc,cat\n", "class number .* line 4 .*'cat'"),
        ("file,label\na,1\nb,2\nc,99999999\n", "class number .* line 4"),
        ("file,label\na,cat\nb,dog\nc,\n", "a class in the column 'label' in line 4"),
        ("file,label,class\na,1,1\nb,2,2\n", "one column of classes"),
        ("file,labels:a|b\na,a\nb,c\n", "labels among a, b in the column .* line 3.*'c'"),
        ("file,labels\na,\nb,\n", "0 different ones"),
        ("file,labels:a,b,age\na,1,0,33\n", "0 or 1 in the column 'labels:age' in line 2.*'33'"),
        ("file,mask\na,m\nb,\n", "a mask in the column 'mask' in line 3"),
        ("file,labels,labels:x\na,q,1\n", "'labels' once"),
        ('file,age\na,"' + "1" * 200_000 + '"\n', "line"),
    ],
)
def test_bad_cells_are_told_with_file_and_line(text, reason):
    with pytest.raises(DataError, match=reason) as caught:
        parse_table(text, "my.csv")
    assert "my.csv" in str(caught.value)
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)


@given(st.text(st.characters(codec="utf-8"), max_size=60))
def test_any_text_parses_or_is_bad_data(text):
    try:
        table = parse_table(f"file,age\n{text}", "my.csv")
    except DataError:
        return
    assert all(len(values) == len(table.paths) for values in table.values.values())


@pytest.fixture
def place(tmp_path):
    for name in ("a.png", "b.png", "ma.png", "mb.png"):
        Image.new("L", (4, 3), len(name)).save(tmp_path / name)
    return tmp_path


def test_a_table_opens_with_all_that_it_says(place):
    (place / "val.csv").write_text(
        "file,label,age,mask,who\na.png,1,30.5,ma.png,Ann\nb.png,0,20,mb.png,Bob\n"
    )
    dataset = open_dataset(f"list:{place}", split="validation")
    assert target_names(dataset) == ("label", "age", "mask")
    assert dataset.labels.tolist() == [1, 0]
    assert "'who'" in skipped_note(dataset)
    found = targets_of(dataset, np.array([1]), Preprocess(crop=2))
    assert {name: values.tolist() for name, values in found.items()} == {
        "label": [0],
        "age": [20.0],
        "mask": [[[6, 6], [6, 6]]],
    }
    assert len(dataset.subset([1]).masks) == 1


def test_only_files_are_for_calibration(place):
    (place / "x.csv").write_text("file,who\na.png,Ann\nb.png,Bob\n")
    with pytest.raises(DataError, match="only files and 'who'"):
        open_list(place / "x.csv", None, "validation")
    for dataset in (
        open_list(place / "x.csv", None, "calibration"),
        open_list(place / "x.csv", None, "validation", labels_needed=False),
    ):
        assert targets_of(dataset, np.arange(2), Preprocess()) == {}


def test_missing_masks_are_named(place):
    (place / "x.csv").write_text("file,mask\na.png,ma.png\nb.png,none.png\n")
    with pytest.raises(DataError, match=r"1 missing, e\.g\. 'none\.png'"):
        open_list(place / "x.csv", None, "validation")


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("a.png,2\nb.png,0\n", [2, 0]),
        ("a.png;dog\nb.png;cat\n", [1, 0]),
        ("a.png, dog\nb.png, cat\n", [1, 0]),
        ("image_id,label\na,dog\nb,cat\n", [1, 0]),
        ("id,species\na,dog\nb,dog\n", [0, 0]),
        ("file_name,category\na.png,dog\nb.png,cat\n", [1, 0]),
    ],
)
def test_lists_of_classes_as_people_have_them(tmp_path, text, labels):
    for place, name in enumerate("ab"):
        Image.new("L", (2, 2), place).save(tmp_path / f"{name}.png")
    (tmp_path / "list.csv").write_text(text)
    found = open_list(tmp_path / "list.csv", None, "validation")
    assert found.paths == ("a.png", "b.png")
    assert found.labels.tolist() == labels
    assert found.image(1).size == (2, 2)


def test_a_column_of_names_that_all_differ_is_no_class(tmp_path):
    for name in "ab":
        Image.new("L", (2, 2)).save(tmp_path / f"{name}.png")
    (tmp_path / "list.csv").write_text("file,author\na.png,Ann\nb.png,Bob\n")
    with pytest.raises(DataError, match="got only files and 'author'"):
        open_list(tmp_path / "list.csv", None, "validation")
