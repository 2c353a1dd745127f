"""Why a verdict fails: the images, or the layer that a fault was planted in."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
from typer.testing import CliRunner

from edgeres.cli import app
from edgeres.data.source import open_dataset
from edgeres.evaluation.validate import validate
from edgeres.graph.layers import load_model
from edgeres.quantization.equalize import apply_factors, equalizing_factors
from edgeres.stages.network import build

from .conftest import GREY, LAYER, engine_of, with_weight_scale


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
    content = judged(planted, engine)
    assert content["explanation"].startswith(f"{LAYER} alone leaves")
    # The file obeys every rule: its scale is only too large for the network.
    assert [f for f in content["findings"] if f["severity"] != "note"] == []
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
