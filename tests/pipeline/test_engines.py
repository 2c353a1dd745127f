"""A target's engine and what is known of it, stored, found again and read as types."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from edgeres.backends.base import LayerInfo
from edgeres.errors import ArtefactError, ModelError
from edgeres.evaluation import run_folder
from edgeres.evaluation.coverage import FloatLayer
from edgeres.pipeline import engines
from edgeres.pipeline.engines import (
    COVERAGE,
    LAYERS,
    build_floats,
    build_fp32,
    build_target,
    calibration_table,
)
from edgeres.quantization.account import QuantizeAccount
from edgeres.quantization.table import CalibrationTable
from edgeres.recipe.quantize import QuantizeBlock


def stage_names(run) -> list[str]:
    return [part.name for part in run.stages]


def test_a_built_target_knows_its_engine_from_inside(ran):
    (built,) = ran.proof.built
    assert built.engine.path.is_file()
    assert built.size_bytes >= built.engine.path.stat().st_size
    assert built.inside.int8_coverage == 1.0
    assert built.inside.float_layers == ()
    assert (built.inside.fusions.adds, built.inside.fusions.relus) == (1, 3)
    assert {layer.precision for layer in built.layers if layer.op == "QLinearConv"} == {"int8"}
    assert built.search is None


def test_the_account_says_what_the_file_beside_the_model_says(ran):
    (built,) = ran.proof.built
    content = json.loads(built.qdq.with_suffix(".json").read_text())
    assert built.saturation_safe is content["saturation_safe"]
    assert dict(built.account.weight_sqnr_db) == content["weight_sqnr_db"]
    assert set(content["weight_sqnr_db"]) == {"stem", "one", "two", "fc"}
    assert content["rules"]["name"] == built.target.rules.name


def test_what_was_stored_is_read_as_it_was(ran):
    (built,) = ran.proof.built
    (folder,) = ran.run.store.root.glob("inspect-*")
    coverage = json.loads((folder / COVERAGE).read_text())
    assert list(coverage) == ["int8_coverage", "macs", "float_layers", "fusions"]
    layers = json.loads((folder / LAYERS).read_text())
    assert [LayerInfo(**{**layer, "nodes": tuple(layer["nodes"])}) for layer in layers] == list(
        built.layers
    )


def test_a_float_layer_comes_back_from_the_store(ran, new_run):
    (target,) = ran.inputs.targets
    mixed = replace(target, rules=replace(target.rules, keep_float=frozenset({"one"})))
    first = build_target(new_run, ran.proof.networks, ran.table, mixed)
    again = build_target(new_run, ran.proof.networks, ran.table, mixed)
    assert all(part.cached for part in new_run.stages[3:])
    assert again.inside == first.inside
    (layer,) = first.inside.float_layers
    assert isinstance(layer, FloatLayer)
    assert (layer.name, layer.precision) == ("one", "float32")
    assert 0 < first.inside.int8_coverage < 1


def test_the_calibration_table_is_of_the_images_of_the_run(ran, new_run):
    table = CalibrationTable.load(calibration_table(new_run, ran.proof.networks))
    assert table.samples == 30
    assert table.made_from["images"] == ran.inputs.calibration.used.fingerprint
    assert stage_names(new_run) == ["calibrate"]


def test_fp32_stays_as_it_is_and_is_accounted_for(ran, new_run):
    (target,) = ran.inputs.targets
    new_run.recipe = new_run.recipe.override({"quantize.precision": "fp32"})
    built = build_target(new_run, ran.proof.networks, ran.table, target)
    assert built.qdq.read_bytes() == ran.proof.networks.dense.onnx.read_bytes()
    assert built.inside.int8_coverage == 0.0
    assert built.account == QuantizeAccount(True, {})
    content = json.loads(built.qdq.with_suffix(".json").read_text())
    assert content["float_nodes"] == dict.fromkeys(["stem", "one", "two", "fc"], "precision: fp32")
    assert stage_names(new_run)[0] == "keep FP32 (onnxruntime)"


def test_options_of_precision_are_left_out_of_fp32_engines(ran, new_run, monkeypatch):
    (target,) = ran.inputs.targets
    asked: list[dict[str, str]] = []
    monkeypatch.setattr(
        engines, "build_engine", lambda run, onnx, target, config, **_: asked.append(config.options)
    )
    backend = type("Backend", (), {"precision_options": frozenset({"half"})})()
    config = replace(target.config, options={"half": "true", "spinning": "false"})
    build_fp32(new_run, ran.table, replace(target, backend=backend, config=config), label="fp32")
    assert asked == [{"spinning": "false"}]


def test_other_float_engines_are_built_beside_fp32(ran, new_run, monkeypatch):
    (target,) = ran.inputs.targets
    asked: list[dict[str, str]] = []

    def build(run, onnx, target, config, *, label):
        asked.append(dict(config.options))
        if config.options["half"] == "wide":
            raise ModelError("a weight is beyond 65504.")
        return label

    monkeypatch.setattr(engines, "build_engine", build)
    builds = {"fp16": {"half": "true"}, "bf16": {"half": "wide"}}
    backend = type("Backend", (), {"name": "onnxruntime", "float_builds": lambda _, __: builds})()
    config = replace(target.config, options={"spinning": "false"})
    target = replace(target, backend=backend, config=config)
    made = build_floats(new_run, ran.proof.networks.dense, target)
    assert made == {"fp16": "build FP16 dense (onnxruntime)"}
    assert asked == [{"spinning": "false", **options} for options in builds.values()]
    assert new_run.warnings == [
        "onnxruntime: INT8 is compared with no BF16: a weight is beyond 65504."
    ]
    for precision in ("fp16", "fp32"):
        new_run.recipe = new_run.recipe.override({"quantize.precision": precision})
        assert build_floats(new_run, ran.proof.networks.dense, target) == {}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "is not JSON"),
        ('{"weight_sqnr_db": {}}', "saturation_safe: Field required"),
        ('{"saturation_safe": true, "weight_sqnr_db": {"one": "loud"}}', r"weight_sqnr_db\.one: "),
    ],
)
def test_a_damaged_account_is_named_with_its_field(tmp_path, text, told):
    qdq = tmp_path / run_folder.QDQ
    qdq.with_suffix(".json").write_text(text)
    with pytest.raises(ArtefactError, match=rf"{run_folder.QDQ_ACCOUNT}: {told}"):
        QuantizeAccount.beside(qdq)


def test_images_are_in_the_key_only_where_they_are_read(ran, new_run, monkeypatch):
    (target,) = ran.inputs.targets
    seen: dict[str, set[str]] = {}
    plain = new_run.store.__class__.stage

    def noted(store, name, *, inputs, **rest):
        seen.setdefault(name, set()).update(inputs)
        return plain(store, name, inputs=inputs, **rest)

    monkeypatch.setattr(new_run.store.__class__, "stage", noted)
    build_target(new_run, ran.proof.networks, ran.table, target)
    assert seen["quantize"] == {"model", "table"} | (
        {"data"} if QuantizeBlock().bias_correction == "empirical" else set()
    )
    new_run.recipe = new_run.recipe.override({"quantize.bias_correction": "empirical"})
    build_target(new_run, ran.proof.networks, ran.table, target)
    assert seen["quantize"] == {"model", "table", "data"}
