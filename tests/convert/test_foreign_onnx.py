"""An ONNX file from elsewhere, and the preprocessing that has to be said for it."""

import json

import edgeres
from edgeres.data.preprocess import Preprocess
from edgeres.pipeline.source import ModelFacts, choose_preprocess

from .conftest import FEW, invoke


def test_an_onnx_file_from_elsewhere(workplace, report, few_images, tmp_path):
    name = next(n for n, t in report["targets"].items() if t["executed"])
    arguments = [
        "convert", "--model", workplace / "out" / "baseline" / "model.onnx",
        "--data", few_images, "--calibration-data", "fashion-mnist",
        "--mean", "0.286", "--std", "0.353", "--target", name,
        "--output", tmp_path / "onnx", "--json",
    ]  # fmt: skip
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["model"]["name"] == "model"
    assert found["baseline"]["samples"] == FEW
    assert found["baseline"]["top1"] > 0.93
    assert found["targets"][name]["verdict"] == "pass"
    assert found["targets"][name]["sqnr_db"] >= 34


def test_one_option_keeps_the_rest_of_the_preprocessing(workplace):
    changed = edgeres.load_recipe(workplace / "recipe.yaml", {"preprocess.crop": 28})
    facts = ModelFacts("net", 10, 1, Preprocess(mean=(0.286,), std=(0.353,), channels=1), ())
    preprocess = choose_preprocess(changed.preprocess, facts)
    assert preprocess.mean == (0.286,)
    assert preprocess.crop == 28


def test_a_file_alone_is_judged_by_any_task_without_a_recipe(workplace, few_images, tmp_path):
    """The budget of the embedded recipe is points of top-1, which other tasks do not have."""
    model = workplace / "out" / "baseline" / "model.onnx"
    done = invoke(
        "convert", "--model", model, "--task", "outputs", "--data", few_images,
        "--target", "onnxruntime", "--mean", "0.286", "--std", "0.353",
        "--calibration-samples", "32", "--output", tmp_path / "out", "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)["targets"]["onnxruntime"]
    assert found["verdict"] == "pass"
