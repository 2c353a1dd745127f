"""One file in INT8 for every target, and engines that stay FP32."""

import json

import pytest

from edgeres.backends import get_backend
from edgeres.backends.sidecar import read_engine
from edgeres.graph.summary import node_macs

from .conftest import RECIPE, SAMPLES, installed, invoke


def test_one_portable_file_serves_every_target(own_copy):
    text = (own_copy / "recipe.yaml").read_text() + "quantize: {portable: true}\n"
    (own_copy / "portable.yaml").write_text(text)
    out = own_copy / "portable"
    result = invoke("convert", own_copy / "portable.yaml", "--output", out, "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)["targets"]
    files = {(out / name / "model.qdq.onnx").read_bytes() for name in told}
    assert len(files) == 1
    for target in told.values():
        assert target["int8_coverage"] > 0.97
        assert target["saturation_safe"]
        assert target["sqnr_db"] is None or target["sqnr_db"] > 25


def test_fp32_is_a_precision_too(own_copy):
    """The FP32 engines of the network, proven as the INT8 ones are, without a claim of INT8."""
    text = RECIPE.format(samples=SAMPLES, targets=", ".join(installed()))
    (own_copy / "fp32.yaml").write_text(text + "quantize: {precision: fp32}\n")
    out = own_copy / "fp32"
    result = invoke("convert", own_copy / "fp32.yaml", "--output", out, "--json")
    assert result.exit_code == 0, result.output
    for name, target in json.loads(result.stdout)["targets"].items():
        assert target["precision"] == "fp32"
        assert target["int8_coverage"] == 0
        assert "int8_coverage" not in {check["name"] for check in target["checks"]}
        assert (out / target["engine"]).is_file()
        account = json.loads((out / name / "model.qdq.json").read_text())
        assert account["quantized_nodes"] == []
        if target["executed"]:
            assert target["verdict"] == "pass"
            assert target["flips"] == {"lost": 0, "gained": 0}
    codes = {finding["code"] for finding in json.loads(result.stdout)["findings"]}
    assert "float-layers" not in codes
    refused = invoke(
        "quantize", out / "baseline" / "model.onnx", "--output", own_copy / "q.onnx",
        "--data", "fashion-mnist", "--target", "onnxruntime", "--recipe", own_copy / "fp32.yaml",
    )  # fmt: skip
    assert refused.exit_code == 2
    assert "nothing to quantize" in refused.output


def test_half_precision_is_one_where_a_target_makes_it(own_copy):
    backend = get_backend("tensorrt")
    if (reason := backend.missing()) is not None:
        pytest.skip(reason)
    recipe = own_copy / "recipe.yaml"
    text = recipe.read_text() + "quantize: {precision: fp16}\n"
    recipe.write_text(text)
    refused = invoke("convert", recipe, "--target", "onnxruntime", "--output", own_copy / "no")
    assert refused.exit_code == 2
    assert "onnxruntime makes no FP16 engines" in refused.stderr
    assert "targets that do: tensorrt" in " ".join(refused.stderr.split())
    out = own_copy / "half"
    made = invoke("convert", recipe, "--target", "tensorrt", "--output", out, "--json")
    part = json.loads(made.stdout)["targets"]["tensorrt"]
    assert part["precision"] == "fp16"
    assert part["int8_coverage"] == 0
    engine = read_engine(out / part["engine"])
    assert engine.versions["rest"] == "float16"
    products = node_macs(out / "baseline" / "model.onnx").keys()
    layers = [layer for layer in backend.layers(engine) if products & set(layer.nodes)]
    last = [layer for layer in layers if any("half_cast" in node for node in layer.nodes)]
    assert len(last) <= 1 < len(layers), "the logits leave as float32"
    assert {layer.precision for layer in layers if layer not in last} == {"float16"}


def test_bfloat16_is_one_where_the_cpu_has_it(own_copy):
    backend = get_backend("openvino")
    if not backend.float_builds("cpu"):
        pytest.skip("OpenVINO is not installed, or this CPU has no instructions for bfloat16")
    recipe = own_copy / "recipe.yaml"
    recipe.write_text(recipe.read_text() + "quantize: {precision: bf16}\n")
    refused = invoke("convert", recipe, "--target", "onnxruntime", "--output", own_copy / "no")
    assert refused.exit_code == 2
    told = " ".join(refused.stderr.split())
    assert "onnxruntime makes no BF16 engines for cpu here. Take fp32, or targets" in told
    assert "openvino" in told
    out = own_copy / "half"
    made = invoke("convert", recipe, "--target", "openvino", "--output", out, "--json")
    assert made.exit_code == 0, made.output
    part = json.loads(made.stdout)["targets"]["openvino"]
    assert (part["precision"], part["yardstick"], part["int8_coverage"]) == ("bf16", "fp32", 0)
    assert 30 < part["sqnr_db"] < 60
    engine = read_engine(out / part["engine"])
    assert engine.options == {"rest": "bfloat16"}
    products = node_macs(out / "baseline" / "model.onnx").keys()
    kinds = {each.precision for each in backend.layers(engine) if products & set(each.nodes)}
    assert kinds == {"bfloat16"}
