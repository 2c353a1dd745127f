"""A target's own options and shapes: from recipe and command line to the engine and back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edgeres.backends import get_backend
from edgeres.backends.base import BuildConfig, ShapeRange
from edgeres.backends.sidecar import read_engine
from edgeres.backends.target import open_target
from edgeres.cli import app
from edgeres.cli.options import parse_options, parse_shapes, target_options
from edgeres.errors import BackendMissingError, EdgeResError, RecipeError, UsageError
from edgeres.pipeline.recipe_file import load_recipe
from edgeres.recipe.recipe import BuildBlock
from edgeres.stages.network import build

from ..backends.conftest import write_network

GOOD = "model: {source: net.onnx}\ntargets: [onnxruntime]\n"
BUILD = GOOD + "build:\n  tensorrt:\n    "


@pytest.fixture
def write(tmp_path):
    def write(text: str) -> Path:
        (tmp_path / "recipe.yaml").write_text(text)
        return tmp_path / "recipe.yaml"

    return write


@pytest.fixture
def onnx(tmp_path) -> Path:
    return write_network(tmp_path / "net.onnx")


def test_a_recipe_says_options_and_shapes(write):
    text = "options: {max_batch: 8, cuda_graph: true, compute_capabilities: [8.6, 12.0]}\n"
    text += "    shapes: {input: {min: [1, 3], opt: [2, 3], max: [4, 3]}}\n"
    config = load_recipe(write(BUILD + text)).build["tensorrt"].to_config("cuda:0")
    assert config == BuildConfig(
        "cuda:0",
        shapes={"input": ShapeRange((1, 3), (2, 3), (4, 3))},
        options={"max_batch": "8", "cuda_graph": "true", "compute_capabilities": "8.6,12.0"},
    )


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (GOOD + "build: {abacus: {}}\n", ["no target 'abacus'", "tensorrt"]),
        (BUILD + "option: {}\n", [":5: unknown key `build.tensorrt.option`", "`options`?"]),
        (BUILD + "shapes: {input: {mn: [1]}}\n", ["`build.tensorrt.shapes.input.mn`", "`min`?"]),
        (BUILD + "shapes: {input: {min: [0], opt: [1], max: [1]}}\n", ["shapes.input.min.0"]),
        (
            BUILD + "options: {timing_cache: /etc/x}\n",
            [":5: `build.tensorrt.options.timing_cache`"],
        ),
        (BUILD + "options: {timing_cache: [../x]}\n", ["leaves the recipe's folder: ../x"]),
    ],
)
def test_what_is_wrong_in_a_recipe_is_named(write, text, parts):
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(text))
    for part in parts:
        assert part in str(caught.value)


def test_paths_of_a_recipe_are_beside_it_plain_names_stay(write, tmp_path):
    text = BUILD + "options: {timing_cache: caches/t.bin, runtime_cache: k.bin}\n"
    options = load_recipe(write(text)).build["tensorrt"].options
    assert options == {"timing_cache": str(tmp_path / "caches/t.bin"), "runtime_cache": "k.bin"}


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("onnxruntime", {"spining": True}, UsageError, "onnxruntime has no option 'spining'"),
        ("openvino", {"batch": 3}, UsageError, "openvino option batch: expected one of"),
        ("tensorrt", {"max_batch": "many"}, UsageError, "max_batch: expected a whole number"),
        ("tensorrt", {"compute_capabilities": 9.0}, EdgeResError, "compute"),
    ],
)
def test_the_target_itself_refuses_options_before_any_work(name, options, error, message):
    if get_backend(name).missing():
        pytest.skip(get_backend(name).missing())
    with pytest.raises(error, match=message):
        open_target(name, settings=BuildBlock(options=options))


def test_targets_that_take_any_batch_refuse_shapes():
    block = BuildBlock.model_validate(
        {"shapes": {"input": {"min": [1, 3], "opt": [1, 3], "max": [2, 3]}}}
    )
    for name in ("onnxruntime", "openvino"):
        if get_backend(name).missing() is None:
            with pytest.raises(UsageError, match="takes no shape ranges"):
                open_target(name, settings=block)


def test_an_engine_runs_with_the_options_it_was_built_with(onnx, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    options = {"graph_optimization": "disabled"}
    engine = build(onnx, tmp_path / "out", target="onnxruntime", options=options)
    assert read_engine(engine.path) == engine
    assert engine.options == options
    backend = get_backend("onnxruntime")
    # Without optimizations every node of the file is a kernel of its own; with them some are one.
    alone = {layer.op for layer in backend.layers(engine)}
    assert {"Conv", "Relu", "Add", "Gemm"} <= alone
    plain = build(onnx, tmp_path / "plain", target="onnxruntime")
    assert not plain.options
    assert "options" not in (tmp_path / "plain.onnx.engine.json").read_text()
    assert {layer.op for layer in backend.layers(plain)} != alone


def test_paths_of_this_machine_are_not_kept(onnx, tmp_path):
    if get_backend("tensorrt").missing():
        pytest.skip(get_backend("tensorrt").missing())
    options = {"runtime_cache": str(tmp_path / "kernels.bin"), "max_batch": "2"}
    assert build(onnx, tmp_path / "a", target="tensorrt", options=options).options == {
        "max_batch": "2"
    }
    named = {"runtime_cache": "kernels.bin"}
    assert build(onnx, tmp_path / "b", target="tensorrt", options=named).options == named


def test_the_command_line(onnx, tmp_path):
    if get_backend("tensorrt").missing():
        pytest.skip(get_backend("tensorrt").missing())
    base = ["build", str(onnx), "--target", "tensorrt", "--output", str(tmp_path / "net")]
    shapes = "1x3x12x12,2x3x12x12,3x3x12x12"
    arguments = ["--option", "optimization_level=1", "--shapes", shapes, "--json"]
    result = CliRunner().invoke(app, [*base, *arguments])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["options"] == {"optimization_level": "1"}
    result = CliRunner().invoke(app, [*base, "--shapes", "mask=" + shapes])
    assert result.exit_code == 2
    assert "a shape range names the input 'mask'" in result.stderr


@pytest.mark.parametrize("text", ["max_batch", "=8", ""])
def test_option_texts_that_make_no_sense(text):
    with pytest.raises(UsageError, match="expected KEY=VALUE"):
        parse_options([text])


def test_option_texts():
    assert parse_options(["a=1", "b=x=y"]) == {"a": "1", "b": "x=y"}
    with pytest.raises(UsageError, match="given twice"):
        parse_options(["a=1", "a=2"])
    assert target_options(["tensorrt.max_batch=8"]) == {"build.tensorrt.options.max_batch": "8"}
    with pytest.raises(UsageError, match=r"expected TARGET\.KEY=VALUE"):
        target_options(["max_batch=8"])
    assert parse_shapes(["1x3,2x3,4x3"]) == {"": ShapeRange((1, 3), (2, 3), (4, 3))}
    for text in ("1x3", "1x3,2x3", "axb,1,1", "in=1x3,2x3,4x3,8x3"):
        with pytest.raises(UsageError, match=r"expected MIN,OPT,MAX"):
            parse_shapes([text])


def test_the_reference_is_built_without_options_that_change_its_arithmetic():
    # `rest: float16` would make the FP32 yardstick an FP16 one.
    backend = get_backend("tensorrt")
    assert "rest" in backend.precision_options
    assert "max_batch" not in backend.precision_options


def test_a_missing_provider_is_said_before_any_work():
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    block = BuildBlock(options={"provider": "tensorrt"})
    with pytest.raises((BackendMissingError, UsageError), match="provider=tensorrt"):
        open_target("onnxruntime", settings=block)
