from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgeres.calibrators import calibrator_names
from edgeres.calibrators.base import ChosenRange
from edgeres.errors import ArtefactError, DataError
from edgeres.quantization.table import CalibrationTable, TensorStats
from edgeres.system.files import file_sha256


def test_round_trip_is_exact_and_text_is_stable(table: CalibrationTable, tmp_path: Path):
    path = tmp_path / "table.json"
    table.save(path)
    again = CalibrationTable.load(path)
    assert again.to_json() == table.to_json()
    assert list(again.tensors) == list(table.tensors)
    for name, stats in table.tensors.items():
        assert again.tensors[name].ranges == stats.ranges
        np.testing.assert_array_equal(again.tensors[name].channel_mean, stats.channel_mean)
        np.testing.assert_array_equal(again.tensors[name].channel_square, stats.channel_square)


def test_it_is_plain_json_with_lists_on_one_line(table: CalibrationTable):
    data = json.loads(table.to_json())
    assert data["samples"] == 24
    assert set(data["tensors"]["input"]["ranges"]) == set(calibrator_names())
    line = next(text for text in table.to_json().splitlines() if '"channel_mean"' in text)
    assert line.rstrip(",").endswith("]")


def test_an_edited_range_is_used(table: CalibrationTable, tmp_path: Path):
    path = tmp_path / "table.json"
    data = json.loads(table.to_json())
    data["tensors"]["stem.relu_out"]["ranges"]["output"] = [0, 3.5, 3.25]
    path.write_text(json.dumps(data))
    chosen = CalibrationTable.load(path).range_of("stem.relu_out")
    assert chosen == ChosenRange(0.0, 3.5, 3.25)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda d: d["tensors"]["input"]["ranges"].update(mse=[1, 2, 3]), "'input', mse.*low <= 0"),
        (lambda d: d["tensors"]["input"]["ranges"].update(mse=[-1, float("nan"), 3]), "finite"),
        (lambda d: d["tensors"]["input"]["ranges"].update(mse=[-1, 1, -3]), "magnitude"),
        (lambda d: d["tensors"]["input"]["ranges"].update(mse=[-1, 1]), "ValueError"),
        (lambda d: d.update(calibrator="best"), "'best' is not one of"),
        (lambda d: d.update(version=9), "version 1"),
        (lambda d: d.pop("samples"), "samples"),
        (lambda d: d.update(tensors=3), "AttributeError"),
    ],
)
def test_a_damaged_table_is_refused_with_file_and_reason(table, tmp_path, edit, words):
    data = json.loads(table.to_json())
    edit(data)
    path = tmp_path / "table.json"
    path.write_text(json.dumps(data))
    with pytest.raises(ArtefactError, match=f"table.json.*{words}"):
        CalibrationTable.load(path)


@pytest.mark.parametrize("content", ["", "{", "[]", "null"])
def test_no_table_at_all(tmp_path, content):
    path = tmp_path / "table.json"
    path.write_text(content)
    with pytest.raises(ArtefactError, match=r"table\.json"):
        CalibrationTable.load(path)
    with pytest.raises(ArtefactError, match="cannot be read"):
        CalibrationTable.load(tmp_path / "missing.json")


def test_a_table_of_another_model_is_refused(table: CalibrationTable, resnet: Path, tmp_path: Path):
    table.check_model(resnet)
    other = tmp_path / "other.onnx"
    other.write_bytes(b"something else")
    with pytest.raises(ArtefactError, match=file_sha256(other)[:12]):
        table.check_model(other)


def test_missing_tensor_or_calibrator_is_named(table: CalibrationTable):
    with pytest.raises(ArtefactError, match="'output' range for tensor 'nowhere'"):
        table.range_of("nowhere")
    with pytest.raises(ArtefactError, match="'best'"):
        table.range_of("input", "best")


def test_a_statistic_that_is_not_finite_is_never_written():
    stats = TensorStats((1,), 0.0, float("inf"), 0.0, {})
    with pytest.raises(DataError, match="not finite"):
        CalibrationTable("0" * 64, 2, "mse", {"x": stats}).to_json()
