"""``edgeres quantize``: a recipe and options in, one call of the library, one line out."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from .conftest import invoke


@pytest.fixture
def made(note):
    result = SimpleNamespace(quantized_nodes=("a", "b"), to_dict=lambda: {"quantized_nodes": 2})
    return note(
        "edgeres.pipeline.quantize_file.quantize_file",
        SimpleNamespace(onnx=Path("q.onnx"), table=Path("t.json"), rule_set="tpu", result=result),
    )


def test_the_recipe_holds_and_options_go_over_it(made, tmp_path):
    (tmp_path / "r.yaml").write_text(
        "model: {source: n.onnx}\ntargets: [all]\nquantize: {calibrator: minmax}\n"
    )
    result = invoke(
        "quantize", "n.onnx", "--output", "q", "--data", "npz:a", "--target", "tpu", "--mean",
        "0.5", "--train-data", "npz:t", "--qat-epochs", 3, "--table", "t.json", "--recipe",
        tmp_path / "r.yaml", "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {"onnx": "q.onnx", "table": "t.json", "quantized_nodes": 2}
    assert made.args == (Path("n.onnx"), Path("q"))
    recipe = made.options["recipe"]
    assert recipe.quantize.calibrator == "minmax"
    assert list(recipe.preprocess.mean) == [0.5]
    assert (recipe.data.train, recipe.quantize.qat.epochs) == ("npz:t", 3)
    assert (made.options["target"], made.options["table"]) == ("tpu", Path("t.json"))


def test_nothing_said_leaves_the_default_recipe(made):
    result = invoke("quantize", "n.onnx", "--output", "q", "--data", "npz:a", "--target", "tpu")
    assert "q.onnx: 2 nodes quantized for tpu" in result.stdout
    assert made.options["recipe"].quantize.qat is None
    assert made.options["recipe"].preprocess is None


def test_numbers_that_are_none_are_refused(made):
    result = invoke("quantize", "n.onnx", "--output", "q", "--data", "npz:a", "--mean", "half")
    assert result.exit_code == 2
    assert made.calls == 0
