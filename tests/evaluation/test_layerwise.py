"""The reference network, layer by layer, on real engines, with faults planted in single layers."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper
from typer.testing import CliRunner

from edgeres.assets import asset_path
from edgeres.backends import get_backend
from edgeres.cli import app
from edgeres.data.preprocess import Preprocess
from edgeres.data.source import open_dataset
from edgeres.errors import ArtefactError, ModelError
from edgeres.evaluation.layerwise import compare
from edgeres.evaluation.points import find_points
from edgeres.evaluation.validate import validate
from edgeres.int8_stages import calibrate, quantize
from edgeres.quantization.equalize import apply_factors, equalizing_factors
from edgeres.quantization.graph import load_model
from edgeres.quantization.portable import portable_rules
from edgeres.recipe import ExportBlock
from edgeres.recipe_compress import QuantizeBlock
from edgeres.stages import build, export

GREY = Preprocess(mean=(0.286,), std=(0.353,), channels=1)
ENGINES = ("onnxruntime", "openvino")
LAYER = "layer2.1.conv1"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Engines of the reference network, laid out as `convert` does."""
    folder = tmp_path_factory.mktemp("run")
    fp32, table = folder / "baseline" / "model.onnx", folder / "baseline" / "table.json"
    fp32.parent.mkdir()
    checkpoint = asset_path("recipes", "checkpoints/fmnist_resnet20.safetensors")
    export(checkpoint, fp32, image_size=(28, 28), settings=ExportBlock())
    block = QuantizeBlock()
    calibrate(
        fp32, table, data="fashion-mnist", samples=32, preprocess=GREY, settings=block, threads=1
    )
    (fp32.parent / "preprocess.json").write_text(GREY.to_json())
    for name in ENGINES:
        backend = get_backend(name)
        if backend.missing() is not None:
            continue
        qdq = folder / name / "model.qdq.onnx"
        qdq.parent.mkdir()
        quantize(fp32, table, qdq, rules=backend.qdq_rules("cpu"), settings=block)
        build(qdq, folder / name / "model", target=name)
    return folder


@pytest.fixture(scope="module")
def images():
    return open_dataset("fashion-mnist", split="validation").subset(range(12))


def engine_of(run: Path, name: str) -> Path:
    backend = get_backend(name)
    if (reason := backend.missing()) is not None:
        pytest.skip(reason)
    return run / name / f"model{backend.engine_suffix}"


def test_with_a_trial_further_engines_are_built_in_children(run, images, monkeypatch):
    engine = engine_of(run, "onnxruntime")
    fp32 = run / "baseline" / "model.onnx"
    plain = compare(fp32, engine, images, GREY, threads=1)

    def refuse(*_: object) -> None:
        raise AssertionError("built in this process")

    monkeypatch.setattr(type(get_backend("onnxruntime")), "build", refuse)
    tried = compare(fp32, engine, images, GREY, threads=1, trial=True)
    assert tried.to_dict() == plain.to_dict()
    with pytest.raises(AssertionError, match="in this process"):
        compare(fp32, engine, images, GREY, threads=1)


def with_weight_scale(qdq: Path, out: Path, factor: float, layer: str = LAYER) -> Path:
    """A Q/DQ file in which the weight scales of one layer are multiplied."""
    model = onnx.load(qdq)
    scales = {f"{layer}.weight_scale", f"{layer}.bias_scale"}  # an INT32 bias must go along
    for scale in model.graph.initializer:
        if scale.name in scales:
            scale.CopyFrom(
                numpy_helper.from_array(numpy_helper.to_array(scale) * factor, scale.name)
            )
    onnx.save(model, out)
    return out


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_computes_what_its_source_says(run, images, name) -> None:
    found = compare(run / "baseline" / "model.onnx", engine_of(run, name), images, GREY, threads=1)
    assert len(found.layers) > 20
    assert found.layers[-1].node == "fc"
    for layer in found.layers:
        seen = layer.candidate
        assert seen is not None
        assert seen.probe_exact
        assert seen.precision == "int8"
        assert seen.int8_asked
        # One step where a sum lies at the border between two, and seldom.
        assert seen.max_steps is None or seen.max_steps < 1.01
        assert seen.rms_steps is None or seen.rms_steps < 0.2
        assert layer.own_sqnr_db is not None
        assert layer.own_sqnr_db > 25
    assert found.suspects == ()
    assert found.notes == ()
    assert found.output.sqnr_db > 25
    # Noise gathers; a layer alone adds less than what has come together at the end.
    assert found.layers[-1].own_sqnr_db > found.layers[-1].sqnr_db
    json.dumps(found.to_dict(), allow_nan=False)


@pytest.mark.parametrize("name", ENGINES)
def test_a_layer_with_a_wrong_scale_is_named(run, images, tmp_path, name) -> None:
    engine_of(run, name)
    bad = with_weight_scale(run / name / "model.qdq.onnx", tmp_path / "bad.onnx", 2.0)
    engine = build(bad, tmp_path / "engine", target=name, threads=1)
    for model in (engine.path, bad):
        found = compare(
            run / "baseline" / "model.onnx", model, images, GREY, sources=[bad], threads=1
        )
        assert found.suspects[0].node == LAYER
        assert found.suspects[0].kind == "quantization"
        assert found.worst_first[0].node == LAYER
        # The one behind may clip what is now out of its range; no other is named.
        assert {s.node for s in found.suspects} <= {LAYER, "layer2.1.conv2", "layer2.1.add"}
    # From the good Q/DQ file's point of view every other layer is as it should be.
    found = compare(
        run / name / "model.qdq.onnx", engine.path, images, GREY, sources=[bad], threads=1
    )
    assert [s.node for s in found.suspects] == [LAYER]
    assert all(x.own_sqnr_db > 45 for x in found.layers if x.node != LAYER)


@pytest.mark.parametrize("layer", ["conv1", "layer2.0.downsample.0", "layer3.2.conv2", "fc"])
def test_wherever_a_scale_is_doubled_that_layer_comes_first(run, images, tmp_path, layer) -> None:
    engine_of(run, "onnxruntime")
    qdq = run / "onnxruntime" / "model.qdq.onnx"
    bad = with_weight_scale(qdq, tmp_path / "bad.onnx", 2.0, layer)
    few = images.subset(range(6))
    found = compare(run / "baseline" / "model.onnx", bad, few, GREY, threads=1)
    assert found.suspects[0].node == found.worst_first[0].node == layer


@pytest.fixture
def planted(run, tmp_path) -> Path:
    """An output folder whose engine has one layer's scale doubled, with 300 images beside it."""
    name = "onnxruntime"
    engine_of(run, name)
    shutil.copytree(run / "baseline", tmp_path / "baseline")
    few = open_dataset("fashion-mnist", split="validation").subset(range(300))
    pixels = np.stack([few.image(index) for index in range(300)])
    np.savez(tmp_path / "few.npz", images=pixels, labels=few.labels)
    answers = validate(
        run / name / "model.onnx",
        open_dataset(f"npz:{tmp_path / 'few.npz'}", split="validation"),
        GREY,
        baseline=tmp_path / "baseline" / "model.onnx",
        threads=1,
    )
    answers.baseline.save(tmp_path / "baseline" / "predictions.npz")
    (tmp_path / name).mkdir()
    bad = with_weight_scale(run / name / "model.qdq.onnx", tmp_path / name / "model.qdq.onnx", 2.0)
    build(bad, tmp_path / name / "model", target=name, threads=1)
    return tmp_path


def judged(folder: Path, engine: Path, *options: str) -> dict[str, object]:
    """What `edgeres validate --json` prints; any loss fails."""
    arguments = ["validate", str(engine), "--data", f"npz:{folder / 'few.npz'}", "--json"]
    arguments += ["--max-drop", "0", "--confidence", "0.5", "--threads", "1", *options]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 1, done.output
    content = json.loads(done.stdout)
    assert content["verdict"] == "fail"
    return content


def test_validate_and_compare_name_the_planted_layer(planted) -> None:
    engine = planted / "onnxruntime" / "model.onnx"
    assert judged(planted, engine)["explanation"].startswith(f"{LAYER} alone leaves")
    arguments = ["compare", str(planted / "baseline" / "model.onnx"), str(engine), "--json"]
    arguments += ["--data", f"npz:{planted / 'few.npz'}", "--samples", "8", "--threads", "1"]
    found = json.loads(CliRunner().invoke(app, arguments).stdout)
    assert found["suspects"][0]["node"] == LAYER
    assert found["notes"] == []


def test_wrong_images_are_told_from_a_wrong_layer(run, planted) -> None:
    good = engine_of(run, "onnxruntime")
    for file in good.parent.iterdir():
        shutil.copyfile(file, planted / "onnxruntime" / file.name)
    engine = planted / "onnxruntime" / "model.onnx"
    told = judged(planted, engine, "--mean", "0.9")["explanation"]
    assert told.startswith("the images are prepared otherwise than for the baseline")
    assert "the FP32 network itself does not give" in told
    assert "mean is [0.9] here and [0.286] in" in told
    # Where nobody knows what was meant, the FP32 network still knows its answers.
    wrong = replace(GREY, std=(1.2,))
    (planted / "baseline" / "preprocess.json").write_text(wrong.to_json())
    told = judged(planted, engine)["explanation"]
    assert "the FP32 network itself does not give" in told
    assert "here and" not in told
    # On a device there is no network, but what was meant.
    (planted / "baseline" / "preprocess.json").write_text(GREY.to_json())
    (planted / "baseline" / "model.onnx").rename(planted / "model.onnx")
    told = judged(planted, engine, "--std", "1.2")["explanation"]
    assert "std is [1.2] here and [0.353] in" in told
    assert "FP32 network itself" not in told
    arguments = ["compare", str(planted / "model.onnx"), str(engine), "--std", "1.2", "--json"]
    arguments += ["--data", f"npz:{planted / 'few.npz'}", "--samples", "4", "--threads", "1"]
    found = json.loads(CliRunner().invoke(app, arguments).stdout)
    assert "std is [1.2] here" in found["notes"][0]


def test_a_layer_left_float_and_one_that_is_not_fused_are_named(run, images, tmp_path) -> None:
    name = "onnxruntime"
    engine_of(run, name)
    model = onnx.load(run / name / "model.qdq.onnx")
    # The engine fuses DQ -> op -> Q; a layer whose output goes on as float cannot run in INT8.
    conv = next(node for node in model.graph.node if node.name == LAYER)
    relu = next(node for node in model.graph.node if conv.output[0] in node.input)
    pair = [n for n in model.graph.node if n.name.startswith(f"{relu.output[0]}_")]
    assert [n.op_type for n in pair] == ["QuantizeLinear", "DequantizeLinear"]
    for node in model.graph.node:
        for index, tensor in enumerate(node.input):
            if tensor == pair[1].output[0]:
                node.input[index] = relu.output[0]
    for node in pair:
        model.graph.node.remove(node)
    onnx.save(model, tmp_path / "unfused.onnx")
    engine = build(tmp_path / "unfused.onnx", tmp_path / "engine", target=name, threads=1)
    found = compare(run / "baseline" / "model.onnx", engine.path, images, GREY, threads=1)
    kinds = {(s.node, s.kind) for s in found.suspects}
    assert (LAYER, "unfused") in kinds
    # The layer behind reads float now, and says so itself.
    assert ("layer2.1.conv2", "float") in kinds
    assert {node for node, _ in kinds} == {LAYER, "layer2.1.conv2"}


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


def test_validate_names_the_layer_behind_a_failure(run, tmp_path) -> None:
    name = "onnxruntime"
    engine_of(run, name)
    shutil.copytree(run / "baseline", tmp_path / "baseline")
    bad = with_weight_scale(run / name / "model.qdq.onnx", tmp_path / "bad.onnx", 30.0)
    (tmp_path / name).mkdir()
    engine = build(bad, tmp_path / name / "model", target=name, threads=1)
    images = open_dataset("fashion-mnist", split="validation").subset(range(100))
    fp32 = tmp_path / "baseline" / "model.onnx"
    found = validate(engine.path, images, GREY, baseline=fp32, threads=1, explain=True)
    assert found.verdict.outcome == "fail"
    assert found.explanation.startswith(f"{LAYER} alone leaves")
    assert found.to_dict()["explanation"] == found.explanation
    silent = validate(engine.path, images, GREY, baseline=found.baseline, threads=1)
    assert silent.cause is None
    assert "explanation" not in silent.to_dict()
    good = run / name / "model.onnx"
    fine = validate(good, images, GREY, baseline=found.baseline, explain=True, threads=1)
    assert fine.cause is None


def test_validate_explains_by_the_network_that_was_quantized(run, tmp_path) -> None:
    name = "onnxruntime"
    engine_of(run, name)
    baseline = tmp_path / "baseline"
    shutil.copytree(run / "baseline", baseline)
    # The engine is of baseline/model.onnx; here that is the equalized form of another network.
    shutil.move(baseline / "model.onnx", baseline / "equalized.onnx")
    unlike = load_model(baseline / "equalized.onnx")
    apply_factors(
        unlike.graph,
        {
            link: np.where(np.arange(len(factor)) % 2, 16.0, 0.0625)
            for link, factor in equalizing_factors(unlike.graph).items()
        },
    )
    ir.save(unlike, baseline / "model.onnx")
    bad = with_weight_scale(run / name / "model.qdq.onnx", tmp_path / "bad.onnx", 30.0)
    (tmp_path / name).mkdir()
    engine = build(bad, tmp_path / name / "model", target=name, threads=1)
    images = open_dataset("fashion-mnist", split="validation").subset(range(100))
    fp32 = baseline / "model.onnx"
    found = validate(engine.path, images, GREY, baseline=fp32, threads=1, explain=True)
    assert found.explanation.startswith(f"{LAYER} alone leaves")


def run_edgeres(
    environment: Mapping[str, str], arguments: list[str]
) -> subprocess.CompletedProcess[str]:
    """A command in a child process."""
    return subprocess.run(
        [sys.executable, "-m", "edgeres", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("weights", ["plain", "safe"])
def test_layers_that_saturate_without_vnni_are_named(
    run, tmp_path, without_vnni, name, weights
) -> None:
    """A CPU with AVX2 alone clips INT8 sums, unless the weights were made for it."""
    engine_of(run, name)
    rules = replace(get_backend(name).qdq_rules("cpu"), saturating=weights == "safe")
    fp32, table, qdq = (
        run / "baseline" / "model.onnx",
        run / "baseline" / "table.json",
        tmp_path / "q.onnx",
    )
    made = quantize(fp32, table, qdq, rules=rules, settings=QuantizeBlock())
    engine = build(qdq, tmp_path / "engine", target=name, threads=1)
    arguments = ["compare", str(qdq), str(engine.path), "--samples", "8", "--threads", "1"]
    arguments += ["--json", "--mean", "0.286", "--std", "0.353"]
    done = run_edgeres(without_vnni, arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    named = {s["node"] for s in found["suspects"] if s["kind"] == "engine"}
    can_overflow = {node for node, proof in made.saturation.items() if not proof.safe}
    assert named <= can_overflow
    assert bool(named) == (weights == "plain")


def test_a_saturating_engine_fails_and_its_layer_is_named(run, planted, without_vnni) -> None:
    """The same engine is good where sums are exact; a CPU with AVX2 alone clips them."""
    rules = replace(get_backend("onnxruntime").qdq_rules("cpu"), saturating=False)
    fp32, table = run / "baseline" / "model.onnx", run / "baseline" / "table.json"
    folder = planted / "onnxruntime"
    made = quantize(fp32, table, folder / "model.qdq.onnx", rules=rules, settings=QuantizeBlock())
    build(folder / "model.qdq.onnx", folder / "model", target="onnxruntime", threads=1)
    arguments = ["validate", str(folder / "model.onnx"), "--data", f"npz:{planted / 'few.npz'}"]
    arguments += ["--max-drop", "0", "--confidence", "0.5", "--threads", "1", "--json"]
    done = run_edgeres(without_vnni, arguments)
    assert done.returncode == 1, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["verdict"] == "fail"
    node, _, text = found["explanation"].partition(":")
    assert "INT8 sums that saturate look like this" in text
    assert not made.saturation[node].safe
