"""The `quantize:` block of the recipe, in convert and in the commands of single stages."""

import json

import numpy as np
import pytest

import edgeres
from edgeres.backends import get_backend
from edgeres.errors import UsageError
from edgeres.recipe.quantize import QuantizeBlock

from .conftest import invoke

RECOVERY = {
    "quantize.bias_correction": "empirical",
    "quantize.rounding": "learned",
    "quantize.equalize": True,
    "quantize.measured_samples": 16,
}


def _quantize_stages(report) -> list:
    names = ("equalize", "calibrate", "quantize")
    return [stage for stage in report.stages if stage.name.split()[0] in names]


def test_recovery_switches_reach_the_engine_and_its_key(workplace, tmp_path):
    one = {"targets": ["onnxruntime"], "data.validation_samples": 100}

    def run(**changes):
        dotted = {f"quantize.{key}": value for key, value in changes.items()}
        recipe = edgeres.load_recipe(workplace / "recipe.yaml", {**one, **RECOVERY, **dotted})
        return edgeres.convert(recipe, tmp_path / "out")

    first = run()
    account = json.loads((tmp_path / "out" / "onnxruntime" / "model.qdq.json").read_text())
    assert sum(account["rounding_gain_db"].values()) > 10
    assert [stage.name.split()[0] for stage in _quantize_stages(first)] == [
        "equalize",
        "calibrate",
        "quantize",
    ]
    assert first.targets["onnxruntime"].sqnr_db > 30
    assert all(stage.cached for stage in _quantize_stages(run()))
    anew = [stage.cached for stage in _quantize_stages(run(measured_samples=24))]
    assert anew == [True, True, False]
    off = {"equalize": False, "rounding": "nearest", "measured_samples": 64}
    plain = run(**off, bias_correction="analytic")
    assert [stage.name.split()[0] for stage in _quantize_stages(plain)] == ["calibrate", "quantize"]
    assert not any(stage.cached for stage in _quantize_stages(plain))


def test_quantize_command_equalizes_and_measures(workplace, tmp_path):
    text = (workplace / "recipe.yaml").read_text() + (
        "preprocess: {mean: [0.286], std: [0.353], channels: 1}\n"
        "quantize: {bias_correction: empirical, rounding: learned, equalize: true}\n"
    )
    (tmp_path / "recipe.yaml").write_text(text)
    labels = (np.arange(32) % 10).astype(np.int64)
    images = np.random.default_rng(0).integers(0, 255, (32, 28, 28, 1), dtype=np.uint8)
    np.savez(tmp_path / "few.npz", images=images, labels=labels)
    result = invoke(
        "quantize", workplace / "out" / "baseline" / "model.onnx", "--output",
        tmp_path / "q.onnx", "--target", "onnxruntime", "--data", f"npz:{tmp_path}/few.npz",
        "--recipe", tmp_path / "recipe.yaml", "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["rounding_gain_db"]
    assert (tmp_path / "q.equalized.onnx").is_file()


@pytest.mark.parametrize(
    ("block", "target", "message"),
    [
        ("portable: true", "onnxruntime", "`portable: true` and --target says 'onnxruntime'"),
        ("mixed_precision: {min_sqnr_db: 9}", "onnxruntime", "searched on built engines"),
        ("equalize: true", None, "no target is named"),
    ],
)
def test_quantize_command_refuses_what_it_cannot_do(tmp_path, block, target, message):
    (tmp_path / "r.yaml").write_text(
        f"model: {{source: net.onnx}}\ntargets: [onnxruntime]\nquantize: {{{block}}}\n"
    )
    named = () if target is None else ("--target", target)
    result = invoke(
        "quantize", tmp_path / "net.onnx", "--output", tmp_path / "q.onnx", *named,
        "--data", "fashion-mnist", "--recipe", tmp_path / "r.yaml", "--json",
    )  # fmt: skip
    assert result.exit_code == 2
    assert message in json.loads(result.stdout)["error"]["message"]


def test_quantize_and_sensitivity_commands_obey_the_recipe(workplace, tmp_path):
    baseline = workplace / "out" / "baseline"
    text = (workplace / "recipe.yaml").read_text() + (
        "preprocess: {mean: [0.286], std: [0.353], channels: 1}\n"
    )
    (tmp_path / "portable.yaml").write_text(text + "quantize: {portable: true}\n")
    result = invoke(
        "quantize", baseline / "model.onnx", "--output", tmp_path / "q.onnx",
        "--data", "fashion-mnist", "--recipe", tmp_path / "portable.yaml",
        "--table", baseline / "calibration_table.json", "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    account = json.loads((tmp_path / "q.json").read_text())
    assert account["rules"]["name"] == "portable"

    (tmp_path / "equalize.yaml").write_text(text + "quantize: {equalize: true}\n")
    result = invoke(
        "sensitivity", baseline / "model.onnx", "--target", "onnxruntime", "--samples", "2",
        "--data", "fashion-mnist", "--recipe", tmp_path / "equalize.yaml",
        "--table", baseline / "calibration_table.json", "--json",
    )  # fmt: skip
    assert result.exit_code != 0, "the table is of the network that is not equalized"
    assert "it is of model" in json.loads(result.stdout)["error"]["message"]


def test_measuring_without_images_is_a_usage_error(workplace, tmp_path):
    baseline = workplace / "out" / "baseline"
    with pytest.raises(UsageError, match="measures on images"):
        edgeres.quantize(
            baseline / "model.onnx",
            baseline / "calibration_table.json",
            tmp_path / "q.onnx",
            rules=get_backend("onnxruntime").qdq_rules("cpu"),
            settings=QuantizeBlock(rounding="learned"),
        )
