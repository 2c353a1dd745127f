"""Layers of a target as rows: what the engine says, beside what was measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeres.errors import ArtefactError
from edgeres.evaluation.coverage import FloatLayer
from edgeres.report.evidence import EngineLayer, TargetEvidence
from edgeres.report.page_layers import MeasuredLayer, layer_rows, measured_layers, standing_out
from edgeres.report.schema import TargetPart

PART = TargetPart(
    engine="e", size_bytes=1, built=True, executed=True, verdict="pass",
    float_layers=(FloatLayer("one", 30, "float32", "kept"),),
)  # fmt: skip
LAYERS = (
    EngineLayer("q", "QLinearConv", "int8", 10, ("stem",)),
    EngineLayer("c", "Conv", "float32", 30, ("one", "add")),
    EngineLayer("copy", "Reorder", "int8", 0, ("one",)),
    EngineLayer("late", "Conv", "float32", 0, ("stem",)),
    EngineLayer("alone", "Softmax", "float32", 0),
)


def rows(folder: Path):
    return {
        row.node: row for row in layer_rows(folder, "tpu", PART, TargetEvidence(None, (), LAYERS))
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tpu").mkdir()
    (tmp_path / "evidence").mkdir()
    (tmp_path / "tpu" / "model.qdq.json").write_text(
        json.dumps({"saturation_safe": True, "weight_sqnr_db": {"stem": 40.5, "one": None}})
    )
    return tmp_path


def test_a_node_is_in_int8_only_where_all_its_layers_are(folder):
    told = rows(folder)
    assert list(told) == ["stem", "one", "add", "alone"]
    assert [row.precision for row in told.values()] == ["float32"] * 4
    assert told["one"].reason == "kept"
    assert told["stem"].reason == ""


def test_macs_are_those_of_nodes_with_weights(folder):
    told = rows(folder)
    assert [row.macs for row in told.values()] == [10, 30, 0, 0]
    assert told["one"].macs_share == 0.75
    assert (told["stem"].weight_sqnr_db, told["one"].weight_sqnr_db) == (40.5, None)


def test_an_output_without_an_account_has_no_weights(folder):
    (folder / "tpu" / "model.qdq.json").unlink()
    assert {row.macs for row in rows(folder).values()} == {0}


def test_what_was_measured_stands_in_the_rows(folder):
    compared = {"layers": [{"node": "stem", "sqnr_db": 30.0, "own_sqnr_db": 35.0}], "suspects": []}
    nodes = [
        {"node": "stem", "only": {"sqnr_db": 20.0}},
        {"node": "one", "only": {"sqnr_db": 10.0}},
    ]
    (folder / "evidence" / "tpu-compare.json").write_text(json.dumps(compared))
    (folder / "evidence" / "tpu-sensitivity.json").write_text(json.dumps({"nodes": nodes}))
    told = rows(folder)
    assert (told["stem"].sqnr_db, told["stem"].own_sqnr_db) == (30.0, 35.0)
    assert told["stem"].noise_share == pytest.approx(1 / 11)
    assert told["one"].noise_share == pytest.approx(10 / 11)
    assert told["add"].sqnr_db is None
    assert standing_out(folder / "evidence", "tpu") == []


def test_nothing_measured_is_nothing(tmp_path):
    assert measured_layers(tmp_path, "tpu") == {}
    assert standing_out(tmp_path, "tpu") == []
    assert MeasuredLayer().noise_share is None


@pytest.mark.parametrize(
    ("name", "text", "field"),
    [
        ("tpu-compare.json", '{"layers": [{"node": 3}]}', r"layers\.0\.node"),
        ("tpu-sensitivity.json", '{"nodes": [{"node": "a", "only": 1}]}', r"nodes\.0\.only"),
    ],
)
def test_a_damaged_file_is_named_with_its_field(tmp_path, name, text, field):
    (tmp_path / name).write_text(text)
    with pytest.raises(ArtefactError, match=rf"{name}: {field}"):
        measured_layers(tmp_path, "tpu")
