"""Images are prepared as the run of a model did, with what is said put over it."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeres.data.preprocess import Preprocess
from edgeres.errors import ArtefactError, UsageError
from edgeres.evaluation.run_preprocess import run_preprocess

GREY = Preprocess(mean=(0.25,), std=(0.5,), channels=1)


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    """The place of an engine in an output folder; nothing of it is read."""
    (tmp_path / "baseline").mkdir()
    (tmp_path / "baseline" / "preprocess.json").write_text(GREY.to_json())
    (tmp_path / "openvino").mkdir()
    return tmp_path / "openvino" / "model.xml"


def test_the_run_of_the_engine_says_it(engine):
    assert run_preprocess([engine], {}) == GREY


def test_options_go_over_it_one_by_one(engine):
    assert run_preprocess([engine], {"mean": (0.75,)}) == Preprocess(
        mean=(0.75,), std=(0.5,), channels=1
    )


def test_what_lies_beside_the_baseline_comes_first(engine, tmp_path):
    other = Preprocess(mean=(0.1,), std=(0.2,), channels=1)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "preprocess.json").write_text(other.to_json())
    assert run_preprocess([engine], {}, tmp_path / "b" / "predictions.npz") == other
    assert run_preprocess([engine], {}, tmp_path / "c" / "predictions.npz") == GREY


def test_the_first_model_whose_run_says_something_counts(engine, tmp_path):
    assert run_preprocess([tmp_path / "x" / "y" / "net.xml", engine], {}) == GREY


def test_nothing_said_is_refused(tmp_path):
    with pytest.raises(UsageError, match="nothing says how its images are preprocessed"):
        run_preprocess([tmp_path / "a" / "b" / "net.xml"], {})


def test_features_need_nobody_to_say_it(engine, tmp_path):
    alone = tmp_path / "of" / "no" / "run" / "model.onnx"
    assert run_preprocess([alone], {}, features=lambda: True) == Preprocess(features=True)
    assert run_preprocess([engine], {}, features=lambda: True) == GREY


def test_a_damaged_file_is_named(engine):
    file = engine.parent.parent / "baseline" / "preprocess.json"
    file.write_text("[")
    with pytest.raises(ArtefactError, match=r"preprocess\.json: is not JSON"):
        run_preprocess([engine], {})
