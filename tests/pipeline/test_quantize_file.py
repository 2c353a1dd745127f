"""One ONNX file quantized without a run: what is made, what is kept, what is refused."""

from __future__ import annotations

import json

import pytest

from edgeres.errors import UsageError
from edgeres.pipeline import quantize_file as module
from edgeres.pipeline.quantize_file import quantize_file
from edgeres.quantization.table import CalibrationTable

from .conftest import Notes


@pytest.fixture(autouse=True)
def no_child(monkeypatch):
    monkeypatch.setattr("edgeres.quantization.isolate.try_model", lambda path: None)


def quantized(place, tmp_path, recipe, **options):
    notes = Notes()
    made = quantize_file(
        place / "net.onnx", tmp_path / "q", recipe=recipe, listener=notes,
        **{"target": "onnxruntime", "data": recipe.data.calibration, **options},
    )  # fmt: skip
    return made, notes.lines


def test_file_table_and_account_lie_side_by_side(place, tmp_path, recipe):
    made, notes = quantized(place, tmp_path, recipe)
    assert made.onnx == tmp_path / "q.onnx"
    assert made.table == tmp_path / "q.calibration.json"
    assert made.rule_set == "onnxruntime"
    assert CalibrationTable.load(made.table).samples == 40  # the whole set
    assert json.loads((tmp_path / "q.json").read_text())["quantized_nodes"]
    assert notes == []


def test_a_kept_table_is_used_and_another_made_anew(place, tmp_path, recipe, monkeypatch):
    first, _ = quantized(place, tmp_path, recipe)
    before = first.table.stat().st_mtime_ns
    again, _ = quantized(place, tmp_path, recipe)
    assert again.table.stat().st_mtime_ns == before
    other = recipe.override({"preprocess.mean": [0.5]})
    _, notes = quantized(place, tmp_path, other)
    assert any("is not used but made anew: it was made with mean" in line for line in notes)


def test_an_equalized_model_is_kept_beside_it(place, tmp_path, recipe):
    quantized(place, tmp_path, recipe.override({"quantize.equalize": True}))
    assert (tmp_path / "q.equalized.onnx").is_file()


def test_a_portable_recipe_needs_no_target(place, tmp_path, recipe, monkeypatch):
    asked = []
    rules = module.rules_of("onnxruntime", None)
    monkeypatch.setattr(module, "rules_of", lambda *names, **_: asked.append(names) or rules)
    portable = recipe.override({"quantize.portable": True})
    made, _ = quantized(place, tmp_path, portable, target=None)
    assert made.rule_set == "portable"
    assert asked == [("portable", None)]
    with pytest.raises(UsageError, match="Leave one of them out"):
        quantized(place, tmp_path, portable)


@pytest.mark.parametrize(
    ("changes", "options", "told"),
    [
        ({"quantize.precision": "fp32"}, {}, "nothing to quantize"),
        ({"quantize.mixed_precision.min_sqnr_db": 1.0}, {}, "searched on built engines"),
        ({}, {"target": None}, "no target is named"),
        ({"quantize.qat.epochs": 1}, {}, "names no training images"),
    ],
)
def test_what_needs_more_than_a_file_is_refused_before_any_work(
    place, tmp_path, recipe, changes, options, told
):
    with pytest.raises(UsageError, match=told):
        quantized(place, tmp_path, recipe.override(changes), **options)
    assert list(tmp_path.iterdir()) == []
