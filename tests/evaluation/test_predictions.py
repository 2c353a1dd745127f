"""Answers: their checks, and the file that carries them to another device."""

from __future__ import annotations

import dataclasses
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from edgeres.errors import ArtefactError, DataError, ModelError
from edgeres.evaluation.predictions import Predictions, load_predictions


def example() -> Predictions:
    logits = np.array([[1, 2], [4, 3], [np.nan, 9], [np.inf, 0]], dtype=np.float32)
    return Predictions(
        logits=logits,
        labels=np.array([1, 1, 1, 0]),
        name="small",
        model_sha256="ab" * 32,
        data_fingerprint="cd" * 32,
        class_names=("kö", "b"),
    )


def test_a_broken_row_is_never_right() -> None:
    assert example().predicted.tolist() == [1, 0, -1, -1]
    assert example().correct.tolist() == [True, False, False, False]


def test_file_brings_everything_back(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "baseline.npz"
    example().save(path)
    back = load_predictions(path)
    assert np.array_equal(back.logits, example().logits, equal_nan=True)
    assert back.labels.tolist() == [1, 1, 1, 0]
    assert (back.name, back.class_names) == ("small", ("kö", "b"))
    assert (back.model_sha256, back.data_fingerprint) == ("ab" * 32, "cd" * 32)
    assert back.digest == example().digest


def test_equal_answers_give_equal_bytes(tmp_path: Path) -> None:
    example().save(tmp_path / "a.npz")
    example().save(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


@pytest.mark.parametrize(
    "change",
    [
        {"name": "other"},
        {"model_sha256": ""},
        {"data_fingerprint": ""},
        {"class_names": ()},
        {"labels": np.array([1, 1, 1, 1])},
        {"logits": np.zeros((4, 2), dtype=np.float32)},
    ],
)
def test_digest_sees_every_change(change: dict[str, object]) -> None:
    changed = dataclasses.replace(example(), **change)
    assert changed.digest != example().digest


def test_changed_content_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "baseline.npz"
    example().save(path)
    with np.load(path) as file:
        arrays = dict(file)
    arrays["labels"] = np.array([0, 1, 1, 0])
    np.savez(path, **arrays)
    with pytest.raises(ArtefactError, match="not what was saved"):
        load_predictions(path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a zip", b"text"])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "baseline.npz"
    path.write_bytes(content)
    with pytest.raises(ArtefactError, match="not a file of predictions"):
        load_predictions(path)


def test_truncated_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "baseline.npz"
    example().save(path)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ArtefactError, match="not a file of predictions"):
        load_predictions(path)


def test_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="no such file"):
        load_predictions(tmp_path / "none.npz")


def test_pickled_objects_never_load(tmp_path: Path) -> None:
    path = tmp_path / "evil.npz"
    bad = np.array([{"a": 1}], dtype=object)
    np.savez(path, logits=bad, labels=bad, about=bad, allow_pickle=True)
    with zipfile.ZipFile(path) as archive:  # drop the entry that the keyword argument became
        kept = {n: archive.read(n) for n in archive.namelist() if "allow" not in n}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in kept.items():
            archive.writestr(name, content)
    with pytest.raises(ArtefactError, match="not a file of predictions"):
        load_predictions(path)


def test_file_that_claims_to_be_huge_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("logits.npy", "labels.npy", "about.npy"):
            archive.writestr(name, bytes(16))
    data = bytearray(buffer.getvalue())
    at = data.rindex(b"PK\x01\x02")  # the last entry's size in the central directory
    data[at + 24 : at + 28] = (0xFFFFFFF0).to_bytes(4, "little")
    at = data.rindex(b"PK\x01\x02", 0, at)
    data[at + 24 : at + 28] = (0xFFFFFFF0).to_bytes(4, "little")
    at = data.rindex(b"PK\x01\x02", 0, at)
    data[at + 24 : at + 28] = (0xFFFFFFF0).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(ArtefactError, match="unpacks to"):
        load_predictions(path)


def test_shapes_and_labels_are_checked() -> None:
    logits = np.zeros((2, 3), dtype=np.float32)
    with pytest.raises(DataError, match="3 classes, the labels run from 0 to 3"):
        Predictions(logits=logits, labels=np.array([0, 3]))
    with pytest.raises(DataError, match="from -1 to 2"):
        Predictions(logits=logits, labels=np.array([-1, 2]))
    with pytest.raises(ModelError, match=r"expected logits of shape \(3, K"):
        Predictions(logits=logits, labels=np.array([0, 1, 2]))
    with pytest.raises(ModelError, match="float64"):
        Predictions(logits=logits.astype(np.float64), labels=np.array([0, 1]))
    with pytest.raises(DataError, match="N >= 1"):
        Predictions(logits=logits[:0], labels=np.array([], dtype=np.int64))
