"""The page that `report` makes of what convert left, and the layers measured for it."""

import json
from pathlib import Path

import pytest

from .conftest import invoke


def test_report_makes_a_page_of_what_convert_left(workplace, report, tmp_path):
    out = workplace / "out"
    result = invoke("report", out, "--output", tmp_path / "pages", "--json")
    assert result.exit_code == 0, result.output
    files = json.loads(result.stdout)["files"]
    page = Path(files["html"]).read_text()
    for name, target in report["targets"].items():
        assert target["reason"].split(".")[0] in page
        assert f"{name}: " in page
        engine = json.loads((out / "evidence" / f"{name}.json").read_text())
        assert "layer1.0.conv1" in {node for layer in engine["layers"] for node in layer["nodes"]}
    assert "layer1.0.add" in page
    assert "edgeres convert recipe.yaml" in page
    assert Path(files["model_card"]).read_text().startswith("---\n")
    assert str(workplace) not in page  # a page is given away: no paths of this machine


def test_report_of_another_folder_is_refused(tmp_path):
    result = invoke("report", tmp_path, "--json")
    assert result.exit_code == 3
    assert json.loads(result.stdout)["error"]["id"] == "bad-artefact"


@pytest.mark.slow
def test_layers_are_measured_where_it_is_asked_for(own_copy, report, tmp_path):
    out = own_copy / "out"
    text = (own_copy / "recipe.yaml").read_text()
    few = own_copy / "layers.yaml"
    few.write_text(text + "report: {layer_samples: 8}\n")
    arguments = ("convert", few, "--layers", "--output", out, "--json")
    first = json.loads(invoke(*arguments).stdout)
    anew = {stage["name"].split(" (")[0] for stage in first["stages"] if not stage["cached"]}
    assert anew == {"benchmark", "sensitivity", "compare layers"}
    page = Path(json.loads(invoke("report", out, "--json").stdout)["files"]["html"]).read_text()
    for name, target in report["targets"].items():
        alone = json.loads((out / "evidence" / f"{name}-sensitivity.json").read_text())
        assert {"conv1", "layer3.0.downsample.0", "fc"} <= {x["node"] for x in alone["nodes"]}
        assert all(10 < x["only"]["sqnr_db"] < 100 for x in alone["nodes"])
        assert f"Sensitivity, most sensitive layers first ({name})" in page
        kept = out / "evidence" / f"{name}-compare.json"
        assert kept.is_file() == target["executed"]
        if not target["executed"]:
            continue
        found = json.loads(kept.read_text())
        assert found["candidate"] == target["engine"]
        assert str(tmp_path) not in kept.read_text()
        assert found["output"]["samples"] == 8
        for layer in found["layers"]:
            assert 15 < layer["own_sqnr_db"] < 100
            assert f">{layer['own_sqnr_db']:.1f}</td>" in page
        assert f"SQNR of the outputs ({name})" in page
    again = json.loads(invoke(*arguments).stdout)
    assert [stage["name"] for stage in again["stages"] if not stage["cached"]] == ["benchmark"]
