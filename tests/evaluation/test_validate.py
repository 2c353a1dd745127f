"""Real ONNX Runtime engines against real baselines, planted regressions included."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from edgeres.backends import get_backend
from edgeres.data.preprocess import Preprocess
from edgeres.errors import ArtefactError, BackendMissingError, DataError
from edgeres.evaluation.predictions import load_predictions
from edgeres.evaluation.validate import validate
from edgeres.recipe.gates import Limits

PLAIN = Preprocess(scale=1 / 255, channels=1)
LOOSE = Limits(max_drop=2.0)


def test_a_good_engine_passes(engines, shapes) -> None:
    found = validate(
        engines["int8"],
        shapes,
        PLAIN,
        baseline=engines["fp32"],
        limits=Limits(max_drop=2.0, min_int8_coverage=1.0),
        source=engines["int8 source"],
    )
    assert found.verdict.outcome == "pass", found.verdict.reason
    assert found.verdict.exit_code == 0
    assert found.comparison.baseline_top1 > 0.9
    assert found.comparison.samples == 1200
    assert found.comparison.sqnr_db is not None
    assert found.comparison.sqnr_db > 25
    assert found.coverage is not None
    assert found.coverage.int8_coverage == 1.0


def test_json_has_the_contracts_names(engines, shapes) -> None:
    found = validate(engines["int8"], shapes, PLAIN, baseline=engines["fp32"], limits=LOOSE)
    told = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    names = {"engine", "size_bytes", "built", "executed", "top1", "drop_pp", "drop_upper_pp"}
    names |= {"verdict", "reason", "agreement", "flips", "sqnr_db", "samples"}
    assert names <= set(told)
    assert told["size_bytes"] == engines["int8"].stat().st_size
    assert told["baseline"]["digest"] == found.baseline.digest


def test_baseline_may_be_a_file_an_engine_or_the_onnx_model(engines, shapes, tmp_path) -> None:
    by_engine = validate(engines["int8"], shapes, PLAIN, baseline=engines["fp32"], limits=LOOSE)
    by_engine.baseline.save(tmp_path / "baseline.npz")
    others = [tmp_path / "baseline.npz", engines["fp32 source"], by_engine.baseline]
    for other in others:
        found = validate(engines["int8"], shapes, PLAIN, baseline=other, limits=LOOSE)
        assert found.comparison == by_engine.comparison


def test_the_baseline_of_convert_is_found(engines, shapes, tmp_path: Path) -> None:
    shutil.copytree(engines["int8"].parent, tmp_path / "onnxruntime")
    engine = tmp_path / "onnxruntime" / engines["int8"].name
    with pytest.raises(ArtefactError, match="no baseline was given"):
        validate(engine, shapes, PLAIN)
    good = validate(engines["fp32"], shapes, PLAIN, baseline=engines["fp32"], limits=LOOSE)
    good.predictions.save(tmp_path / "baseline" / "predictions.npz")
    assert validate(engine, shapes, PLAIN, limits=LOOSE).baseline.digest == good.predictions.digest


def test_exchanged_classes_fail_and_are_named(engines, shapes) -> None:
    found = validate(engines["swapped"], shapes, PLAIN, baseline=engines["fp32"])
    assert found.verdict.outcome == "fail"
    assert found.verdict.exit_code == 1
    assert {w.name for w in found.comparison.worse_classes} == {"bottom", "left"}


def test_wrong_preprocessing_of_the_engine_fails(engines, shapes) -> None:
    baseline = validate(engines["fp32"], shapes, PLAIN, baseline=engines["fp32"]).predictions
    wrong = dataclasses.replace(PLAIN, mean=(0.7,), std=(0.2,))
    found = validate(engines["int8"], shapes, wrong, baseline=baseline)
    assert found.verdict.outcome == "fail"


def test_nan_outputs_are_told_apart(engines, shapes) -> None:
    found = validate(engines["nan"], shapes, PLAIN, baseline=engines["fp32"])
    assert found.comparison.nan_samples == 1200
    assert "not numbers" in found.verdict.reason
    assert found.verdict.exit_code == 1


def test_few_samples_are_inconclusive(engines, shapes) -> None:
    few = shapes.subset(range(60))
    found = validate(engines["int8"], few, PLAIN, baseline=engines["fp32"])
    assert found.verdict.outcome == "inconclusive"
    assert found.verdict.exit_code == 1
    assert found.verdict.checks[0].samples_to_decide is not None


def test_low_coverage_fails(engines, shapes) -> None:
    found = validate(
        engines["fp32"],
        shapes,
        PLAIN,
        baseline=engines["fp32"],
        limits=Limits(max_drop=2.0, min_int8_coverage=0.9),
    )
    assert found.verdict.outcome == "fail"
    assert "templates" in found.verdict.reason


def test_an_engine_that_is_too_large_fails(engines, shapes) -> None:
    limits = Limits(max_drop=2.0, max_size_bytes=10)
    found = validate(engines["int8"], shapes, PLAIN, baseline=engines["fp32"], limits=limits)
    assert found.verdict.outcome == "fail"
    assert "at most 10 asked" in found.verdict.reason


def test_answers_of_an_engine_can_be_a_baseline_elsewhere(engines, shapes, tmp_path) -> None:
    found = validate(engines["int8"], shapes, PLAIN, baseline=engines["fp32"], limits=LOOSE)
    found.predictions.save(tmp_path / "int8.npz")
    back = load_predictions(tmp_path / "int8.npz")
    assert np.array_equal(back.logits, found.predictions.logits)
    again = validate(engines["int8"], shapes, PLAIN, baseline=back, limits=LOOSE)
    assert (again.comparison.agreement, again.comparison.sqnr_db) == (1.0, None)


def test_baseline_of_other_data_is_refused(engines, shapes) -> None:
    baseline = validate(engines["fp32"], shapes, PLAIN, baseline=engines["fp32"]).predictions
    with pytest.raises(DataError, match="another data set"):
        validate(engines["int8"], shapes.subset(range(600)), PLAIN, baseline=baseline)


def test_baseline_near_chance_is_refused(engines, shapes) -> None:
    rolled = dataclasses.replace(shapes, labels=(shapes.labels + 1) % 3)
    with pytest.raises(DataError, match="near the") as caught:
        validate(engines["int8"], rolled, PLAIN, baseline=engines["fp32"])
    assert "permuted" in caught.value.hint


def test_missing_and_odd_files_are_told(engines, shapes, tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="no such engine"):
        validate(tmp_path / "none.onnx", shapes, PLAIN)
    with pytest.raises(ArtefactError, match="no such baseline"):
        validate(engines["int8"], shapes, PLAIN, baseline=tmp_path / "none.npz")
    (tmp_path / "odd.txt").write_text("x")
    with pytest.raises(ArtefactError, match="expected predictions"):
        validate(engines["int8"], shapes, PLAIN, baseline=tmp_path / "odd.txt")


def test_an_engine_that_cannot_run_here_is_exit_code_4(engines, shapes, monkeypatch) -> None:
    backend = get_backend("onnxruntime")
    monkeypatch.setattr(type(backend), "not_executable", lambda self: "no such CPU.")
    with pytest.raises(BackendMissingError, match="cannot run on this machine: no such CPU") as e:
        validate(engines["int8"], shapes, PLAIN, baseline=engines["fp32"])
    assert e.value.exit_code == 4
