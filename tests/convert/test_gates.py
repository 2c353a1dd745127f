"""Limits that a run, or an engine that convert made, does not keep end with exit code 1."""

import json
import shutil

from .conftest import RECIPE, SAMPLES, invoke


def test_one_gate_over_accuracy_coverage_size_and_speed(own_copy, tmp_path):
    text = RECIPE.format(samples=SAMPLES, targets="onnxruntime")
    limits = "max_drop: 5, max_size_bytes: 1000, max_p99_ms: 5000, min_speedup: 0.01"
    (own_copy / "strict.yaml").write_text(text.replace("max_drop: 5", limits))
    junit = tmp_path / "junit.xml"
    result = invoke(
        "convert", own_copy / "strict.yaml", "--output", tmp_path / "out", "--json",
        "--junit", junit, "--annotations",
    )  # fmt: skip
    assert result.exit_code == 1, result.output
    target = json.loads(result.stdout)["targets"]["onnxruntime"]
    outcomes = {check["name"]: check["outcome"] for check in target["checks"]}
    assert set(outcomes) == {"accuracy", "int8_coverage", "size", "latency", "speedup"}
    assert target["verdict"] == outcomes["size"] == "fail"
    assert outcomes["accuracy"] == outcomes["int8_coverage"] == "pass"
    assert outcomes["latency"] != "fail"
    assert 'name="size"' in junit.read_text()
    assert "::error title=edgeres onnxruntime" in result.stderr


def test_a_strict_limit_ends_with_one(own_copy):
    result = invoke(
        "convert", own_copy / "recipe.yaml", "--output", own_copy / "out", "--max-drop", "0"
    )
    assert result.exit_code == 1
    assert "FAIL" in result.output or "INCONCLUSIVE" in result.output


def test_planted_regressions_fail(workplace, report, few_images, tmp_path):
    import onnx
    from onnx import numpy_helper

    model = onnx.load(workplace / "out" / "onnxruntime" / "model.qdq.onnx")
    # An INT32 bias must go along, or the engine would not fuse the layer, which is another fault.
    names = {"layer2.1.conv1.weight_scale", "layer2.1.conv1.bias_scale"}
    scales = [weight for weight in model.graph.initializer if weight.name in names]
    assert len(scales) == 2
    for scale in scales:
        scale.CopyFrom(numpy_helper.from_array(2 * numpy_helper.to_array(scale), scale.name))
    onnx.save(model, tmp_path / "doubled.onnx")
    bad = tmp_path / "out" / "onnxruntime" / "model.onnx"
    bad.parent.mkdir(parents=True)
    built = invoke(
        "build", tmp_path / "doubled.onnx", "--output", bad.with_suffix(""),
        "--target", "onnxruntime",
    )  # fmt: skip
    assert built.exit_code == 0, built.output
    shutil.copyfile(tmp_path / "doubled.onnx", bad.with_name("model.qdq.onnx"))
    shutil.copytree(workplace / "out" / "baseline", tmp_path / "out" / "baseline")
    good = workplace / "out" / report["targets"]["onnxruntime"]["engine"]
    # A file of answers stays right where the engine's images are prepared wrongly.
    baseline = tmp_path / "baseline.npz"
    fp32 = workplace / "out" / "baseline" / "model.onnx"
    few = ("--data", few_images, "--json")
    first = invoke(
        "validate", good, "--baseline", fp32, "--max-drop", "1", "--save", baseline, *few
    )
    assert first.exit_code == 0, first.output
    kept = (workplace / "out" / "baseline" / "preprocess.json").read_text()
    (tmp_path / "preprocess.json").write_text(kept)
    for engine, options, told in (
        (bad, (), "layer2.1.conv1 alone leaves"),
        (good, ("--mean", "0.9"), "mean is [0.9] here and [0.286] in"),
    ):
        result = invoke("validate", engine, "--baseline", baseline, *options, *few)
        assert result.exit_code == 1, result.output
        content = json.loads(result.stdout)
        assert content["verdict"] == "fail"
        assert told in content["explanation"]
    result = invoke("compare", fp32, bad, "--samples", "8", "--json")
    assert json.loads(result.stdout)["suspects"][0]["node"] == "layer2.1.conv1"
