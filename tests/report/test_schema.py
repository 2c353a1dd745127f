"""`report.json` keeps the contract's names and holds nothing that is not JSON."""

from __future__ import annotations

import json
import math
from pathlib import Path

import jsonschema
import pytest

from edgeres.errors import ArtefactError
from edgeres.report.schema import json_schema, read_report, write_report

CONTRACT = {
    "": ["schema", "environment", "model", "baseline", "pruning", "stages", "targets"],
    "environment": ["cpu", "isa", "threads", "versions"],
    "model": ["name", "parameters", "macs", "sha256"],
    "baseline": ["top1", "samples", "latency_ms"],
    "pruning": ["top1", "macs", "parameters", "macs_ratio"],
}
STAGE = ["name", "seconds", "cached", "peak_rss_bytes"]
TARGET = [
    "engine",
    "size_bytes",
    "built",
    "executed",
    "top1",
    "drop_pp",
    "drop_upper_pp",
    "quantization_drop_pp",
    "verdict",
    "reason",
    "agreement",
    "flips",
    "sqnr_db",
    "int8_coverage",
    "float_layers",
    "latency_ms",
    "speedup",
]


def test_names_of_the_contract(report) -> None:
    told = json.loads(report().to_json())
    for where, names in CONTRACT.items():
        part = told[where] if where else told
        assert set(names) <= set(part), where
    assert set(STAGE) <= set(told["stages"][0])
    for found in told["targets"].values():
        assert set(TARGET) <= set(found)
    assert told["schema"] == 2
    engine = told["targets"]["onnxruntime"]
    assert engine["flips"] == {"lost": 40, "gained": 19}
    assert {"p50", "p90", "p99"} <= set(engine["latency_ms"])
    assert {"p50", "p90", "p99"} <= set(told["baseline"]["latency_ms"]["onnxruntime"])


def test_file_brings_everything_back(report, tmp_path: Path) -> None:
    path = tmp_path / "out" / "report.json"
    write_report(report(), path)
    assert read_report(path) == report()
    assert report().to_dict() == json.loads(path.read_text())


def test_no_pruning_is_null(report) -> None:
    assert report(pruning=None).to_dict()["pruning"] is None


def test_newer_fields_are_passed_over(report, tmp_path: Path) -> None:
    told = report().to_dict()
    told["more"] = 1
    told["model"]["more"] = [1]
    told["targets"]["onnxruntime"]["more"] = {}
    (tmp_path / "report.json").write_text(json.dumps(told))
    assert read_report(tmp_path / "report.json") == report()


@pytest.mark.parametrize("bad", [math.nan, math.inf, "95 %", [0.9]])
def test_what_is_no_number_is_never_written(report, target, tmp_path: Path, bad: object) -> None:
    path = tmp_path / "report.json"
    write_report(report(), path)
    before = path.read_bytes()
    with pytest.raises(ArtefactError, match=r"report\.json cannot be written") as caught:
        write_report(report(targets={"x": target(top1=bad)}), path)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lambda d: d.pop("model"), "model"),
        (lambda d: d.update(schema=1), "schema"),
        (lambda d: d["targets"]["openvino"].update(verdict="maybe"), "targets.openvino.verdict"),
        (lambda d: d["baseline"].update(top1="high"), "baseline.top1"),
    ],
)
def test_other_content_is_refused_with_the_place(report, tmp_path: Path, change, where) -> None:
    told = report().to_dict()
    change(told)
    (tmp_path / "report.json").write_text(json.dumps(told))
    with pytest.raises(ArtefactError, match=f"not a report of edgeres: {where}"):
        read_report(tmp_path / "report.json")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"schema": 1}', "\x00"])
def test_other_files_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "report.json").write_text(content)
    with pytest.raises(ArtefactError, match="not a report"):
        read_report(tmp_path / "report.json")
    with pytest.raises(ArtefactError, match="no report can be read"):
        read_report(tmp_path / "none.json")


def test_json_schema_accepts_reports_and_nothing_broken(report) -> None:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(report().to_dict(), schema)
    told = report().to_dict()
    told["targets"]["onnxruntime"]["speedup"] = "fast"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(told, schema)
