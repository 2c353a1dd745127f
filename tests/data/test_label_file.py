"""Files of class names: every form that people have, and what is none."""

import json

import pytest

from edgeres.data.label_file import read_labels
from edgeres.errors import DataError

IDS = {"1": "dog", "0": "cat"}


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("cat\n\n  dog \r\n", ("cat", "dog")),
        ("\ufeffcat\ndog", ("cat", "dog")),
        ("n01440764 tench, Tinca tinca\n", ("tench, Tinca tinca, n01440764",)),
        (json.dumps(["cat", "dog"]), ("cat", "dog")),
        (json.dumps(IDS), ("cat", "dog")),
        (json.dumps({"dog": 1, "cat": 0}), ("cat", "dog")),
        (json.dumps({"architectures": ["x"], "id2label": IDS}), ("cat", "dog")),
        (json.dumps({"class_to_idx": {"dog": 1, "cat": 0}}), ("cat", "dog")),
        (json.dumps({"0": ["n01440764", "tench"]}), ("tench, n01440764",)),
    ],
)
def test_every_form(tmp_path, text, names):
    (tmp_path / "labels").write_text(text, "utf-8")
    assert read_labels(tmp_path / "labels") == names


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "holds no names"),
        (b"[]", "holds no names"),
        (b"\xff\xfe\n", "decode"),
        (b'{"0": "a", "2": "b"}', "class 1 of 2 has no name"),
        (b'{"a": 0, "b": 0}', "the same number"),
        (b"[1, 2]", "'1' is no name"),
        (b'{"a": {"b": 1}}', "class 0 of 1"),
        (b"[" * 100_000, "too deep"),
        (b"x" * (16 << 20) + b"x", "16,777,216 bytes"),
    ],
)
def test_what_is_none(tmp_path, data, reason):
    (tmp_path / "labels").write_bytes(data)
    with pytest.raises(DataError, match=reason):
        read_labels(tmp_path / "labels")
    with pytest.raises(DataError, match="No such file"):
        read_labels(tmp_path / "none")
