"""What a model answered, kept in a file."""

from __future__ import annotations

import numpy as np
import pytest

from edgeres.errors import ArtefactError, DataError
from edgeres.tasks.answers import Answers, are_answers, load_answers
from edgeres.tasks.kept import MOST, kept


def answers(**changes: object) -> Answers:
    rng = np.random.default_rng(0)
    fields: dict[str, object] = {
        "rows": {
            "output:z": rng.standard_normal((6, 3)).astype(np.float32),
            "label": np.arange(6),
            "output:a": rng.standard_normal((6, 2)).astype(np.float32),
        },
        "name": "m",
        "data_fingerprint": "f",
        "class_names": ("x", "y"),
        "sketches": np.zeros((6, 16), np.int16),
    }
    return Answers(**{**fields, **changes})  # type: ignore[arg-type]


def test_a_file_gives_back_what_was_saved_in_its_order(tmp_path) -> None:
    own = answers()
    own.save(tmp_path / "a.npz")
    again = load_answers(tmp_path / "a.npz")
    assert list(again.outputs) == ["z", "a"]
    assert again.digest == own.digest
    assert (again.rows["label"] == own.rows["label"]).all()
    assert (again.name, again.class_names, again.samples) == ("m", ("x", "y"), 6)
    answers().save(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert are_answers(tmp_path / "a.npz")


def test_what_was_changed_is_refused(tmp_path) -> None:
    own = answers()
    own.save(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as file:
        arrays = dict(file)
    arrays["row:label"] = arrays["row:label"][::-1]
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ArtefactError, match="digest differs"):
        load_answers(tmp_path / "a.npz")
    (tmp_path / "no.npz").write_bytes(b"PK")
    with pytest.raises(ArtefactError, match="not a file of answers"):
        load_answers(tmp_path / "no.npz")
    assert not are_answers(tmp_path / "no.npz")


def test_rows_of_other_samples_are_refused() -> None:
    with pytest.raises(DataError, match="same number of samples"):
        answers(rows={"a": np.zeros(3), "b": np.zeros(4)})
    with pytest.raises(DataError, match="at least one"):
        answers(rows={"a": np.zeros(0)}, sketches=None)


def test_broken_samples_are_known() -> None:
    rows = {"output:a": np.array([[1.0], [np.nan], [np.inf]], np.float32)}
    assert answers(rows=rows, sketches=None).finite.tolist() == [True, False, False]


def test_large_outputs_are_sampled_alike() -> None:
    large = np.random.default_rng(1).standard_normal((2, 3, 100, 100))
    assert kept(large).shape == (2, MOST)
    assert (kept(large) == kept(large.astype(np.float32))).all()
    small = large[:, :, :10, :10]
    assert (kept(small) == small.reshape(2, -1).astype(np.float32)).all()
