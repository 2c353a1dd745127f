"""The reference network, layer by layer, on real engines that are as they should be."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import onnx
import pytest
from typer.testing import CliRunner

from edgeres.backends import get_backend
from edgeres.backends.portable import portable_rules
from edgeres.cli import app
from edgeres.errors import ArtefactError, ModelError
from edgeres.evaluation.layerwise import compare
from edgeres.evaluation.points import find_points
from edgeres.graph.layers import load_model
from edgeres.recipe.quantize import QuantizeBlock
from edgeres.stages.int8 import quantize
from edgeres.stages.network import build

from .conftest import ENGINES, GREY, engine_of


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_computes_what_its_source_says(run, images, name) -> None:
    found = compare(run / "baseline" / "model.onnx", engine_of(run, name), images, GREY, threads=1)
    assert len(found.layers) > 20
    assert found.layers[-1].node == "fc"
    # A look inside may make an engine round a tie of one layer otherwise.
    altered = [layer.tensor for layer in found.layers if not layer.candidate.probe_exact]
    assert len(altered) <= 1
    for layer in found.layers:
        seen = layer.candidate
        assert seen is not None
        assert seen.precision == "int8"
        assert seen.int8_asked
        # One step where a sum lies at the border between two, and seldom.
        assert seen.max_steps is None or seen.max_steps < 1.01
        assert seen.rms_steps is None or seen.rms_steps < 0.2
        assert layer.own_sqnr_db is not None
        assert layer.own_sqnr_db > 25
    assert found.suspects == ()
    assert [
        f"reading {tensor} out changes" in note
        for tensor, note in zip(altered, found.notes, strict=True)
    ] == [True] * len(altered)
    assert found.output.sqnr_db > 25
    # Noise gathers; a layer alone adds less than what has come together at the end.
    assert found.layers[-1].own_sqnr_db > found.layers[-1].sqnr_db
    json.dumps(found.to_dict(), allow_nan=False)


def test_with_a_trial_further_engines_are_built_in_children(run, images, monkeypatch):
    engine = engine_of(run, "onnxruntime")
    fp32 = run / "baseline" / "model.onnx"
    plain = compare(fp32, engine, images, GREY, threads=1)

    def refuse(*_: object) -> None:
        raise AssertionError("built in this process")

    monkeypatch.setattr(type(get_backend("onnxruntime")), "build", refuse)
    tried = compare(fp32, engine, images, GREY, threads=1, isolate=True)
    assert tried.to_dict() == plain.to_dict()
    with pytest.raises(AssertionError, match="in this process"):
        compare(fp32, engine, images, GREY, threads=1)


def test_readers_with_a_pair_each_all_get_the_engines_tensor(run, images, tmp_path) -> None:
    """In a portable file every reader has its own Q/DQ pair."""
    engine_of(run, "onnxruntime")
    rules = portable_rules([get_backend(name).qdq_rules("cpu") for name in ENGINES])
    rules = replace(rules, pair_per_reader=True)
    fp32, table = run / "baseline" / "model.onnx", run / "baseline" / "table.json"
    qdq = tmp_path / "model.qdq.onnx"
    quantize(fp32, table, qdq, rules=rules, settings=QuantizeBlock())
    points = find_points(load_model(qdq, may_be_quantized=True))
    assert any(point.twins for point in points)
    engine = build(qdq, tmp_path / "model", target="onnxruntime", threads=1)
    found = compare(qdq, engine.path, images, GREY, threads=1)
    assert not [s for s in found.suspects if s.kind == "engine"]
    assert all(layer.candidate.own_sqnr_db > 45 for layer in found.layers)


def test_two_engines_meet_at_the_tensors_that_both_have(run, images) -> None:
    first, second = (engine_of(run, name) for name in ENGINES)
    found = compare(first, second, images, GREY, threads=1)
    assert len(found.layers) > 20
    assert all(layer.own_sqnr_db is None for layer in found.layers)
    assert all(layer.reference and layer.candidate for layer in found.layers)
    assert found.output.sqnr_db > 25
    assert found.suspects == ()


def test_a_model_equals_itself(run, images) -> None:
    fp32 = run / "baseline" / "model.onnx"
    found = compare(fp32, fp32, images, GREY, threads=1)
    assert all(layer.sqnr_db == 200 for layer in found.layers)
    assert found.output.agreement == 1.0
    assert found.output.largest_difference == 0.0


def test_what_cannot_be_compared_is_refused(run, images, tmp_path) -> None:
    fp32, engine = run / "baseline" / "model.onnx", engine_of(run, "openvino")
    for file in engine.parent.glob("model.[xb]*"):
        shutil.copyfile(file, tmp_path / file.name)
    with pytest.raises(ArtefactError, match="built from is not beside it"):
        compare(fp32, tmp_path / "model.xml", images, GREY)
    with pytest.raises(ArtefactError, match="expected an ONNX file"):
        compare(fp32, tmp_path / "model.bin", images, GREY)
    model = onnx.load(fp32)
    model.graph.output[0].name = model.graph.node[-1].output[0] = "scores"
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(ModelError, match="not forms of one network"):
        compare(fp32, tmp_path / "other.onnx", images, GREY)


def test_the_command_prints_layers_and_json(run) -> None:
    engine = engine_of(run, "onnxruntime")
    arguments = ["compare", str(run / "baseline" / "model.onnx"), str(engine), "--samples", "4"]
    shown = CliRunner().invoke(app, arguments)
    assert shown.exit_code == 0, shown.output
    assert "layer3.2.conv2" in shown.output
    assert "No layer stands out." in shown.output
    told = CliRunner().invoke(app, [*arguments, "--json"])
    content = json.loads(told.stdout)
    assert {"reference", "candidate", "output", "suspects", "layers", "notes"} <= set(content)
    assert content["output"]["samples"] == 4
    assert content["layers"][0]["candidate"]["precision"] == "int8"
