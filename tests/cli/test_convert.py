"""``edgeres convert``: options go over the recipe, the report's exit code is the command's."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from edgeres.recipe.recipe import Recipe

from .conftest import invoke


@pytest.fixture
def converted(note, monkeypatch):
    report = SimpleNamespace(exit_code=1, to_dict=lambda: {"schema": 1}, targets={})
    note("edgeres.report.junit.tell_ci")
    monkeypatch.setattr("edgeres.report.run_table.report_table", lambda *_, **__: "a table")
    monkeypatch.setattr("edgeres.cli.closing_lines.closing_lines", lambda *_: ["what next"])
    return note("edgeres.pipeline.convert.convert", report)


def recipe_of(converted) -> Recipe:
    return converted.args[0]


def test_a_model_alone_is_quantized_as_it_is(converted):
    result = invoke(
        "convert", "--model", "some/net.onnx", "--data", "npz:a", "--target", "openvino"
    )
    assert result.exit_code == 1, result.output
    recipe = recipe_of(converted)
    assert (recipe.name, recipe.prune, recipe.model.source) == ("net", None, "some/net.onnx")
    assert (recipe.data.validation, recipe.data.calibration) == ("npz:a", "npz:a")
    assert list(recipe.targets) == ["openvino"]
    assert recipe.gates.max_drop is None, "the default recipe's is points of top-1"
    assert converted.args[1] == Path("runs/net")
    assert "a table" in result.stdout
    assert "what next" in result.stdout


def test_what_is_said_goes_over_the_recipe(converted):
    plain = invoke("convert", "--json")
    assert plain.exit_code == 1, plain.output
    before = recipe_of(converted)
    invoke(
        "convert", "--max-drop", 2, "--confidence", 0.9, "--threads", 3, "--layers", "--untrained",
        "--calibration-data", "npz:c", "--mean", "0.5", "--output", "there", "--no-cache",
        "--option", "tensorrt.max_batch=8",
    )  # fmt: skip
    after = recipe_of(converted)
    assert after.prune == before.prune
    assert (after.gates.max_drop, after.gates.confidence) == (2.0, 0.9)
    assert (after.gates.untrained, after.report.layers) == (True, True)
    assert (after.benchmark.threads, after.data.calibration) == (3, "npz:c")
    assert after.data.validation == before.data.validation
    assert after.build["tensorrt"].options == {"max_batch": "8"}
    assert converted.args[1] == Path("there")
    assert converted.options["use_cache"] is False


def test_json_alone_is_on_stdout(converted):
    result = invoke("convert", "--json")
    assert result.stdout == '{\n "schema": 1\n}\n'
