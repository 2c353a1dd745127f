"""What a recipe says of its task, and the code that it may name."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeres.errors import RecipeError
from edgeres.pipeline.recipe_file import load_recipe, load_training_recipe, stage_recipe

GOOD = "model: {source: net.onnx}\ntargets: [onnxruntime]\n"


def write(folder: Path, text: str) -> Path:
    (folder / "r.yaml").write_text(GOOD + text)
    return folder / "r.yaml"


def test_one_task_or_one_for_each_head(tmp_path) -> None:
    assert load_recipe(write(tmp_path, "")).is_classifier
    assert load_recipe(write(tmp_path, "task: {name: classification}\n")).is_classifier
    one = load_recipe(write(tmp_path, "task: {name: regression, unit: years}\n"))
    assert not one.is_classifier
    assert one.task[0].model_extra == {"unit": "years"}
    assert one.kept_outputs == ()
    assert load_recipe(write(tmp_path, "task: outputs\n")).task[0].name == "outputs"
    both = load_recipe(write(tmp_path, "task: [regression, {name: binary}]\n")).task
    assert [task.name for task in both] == ["regression", "binary"]
    heads = "task: [{name: classification, output: a}, {name: embedding, output: b}]\n"
    assert load_recipe(write(tmp_path, heads)).kept_outputs == ("a", "b")
    some = "task: [{name: classification, output: a}, {name: outputs}]\n"
    assert load_recipe(write(tmp_path, some)).kept_outputs == ()


def test_a_drop_of_another_metric_is_no_share(tmp_path) -> None:
    text = "task: {name: regression}\ngates: {max_drop: 500}\n"
    assert load_recipe(write(tmp_path, text)).gates.max_drop == 500
    with pytest.raises(RecipeError, match=r"r.yaml:3: .*percentage points of top-1, got 500"):
        load_recipe(write(tmp_path, "gates: {max_drop: 500}\n"))


@pytest.mark.parametrize("gate", ["metric: [balanced]", "floor: {top1: 90}"])
def test_a_gate_on_another_figure_than_top1_is_never_passed_over(tmp_path, gate: str) -> None:
    with pytest.raises(RecipeError, match=r"r.yaml:3: .*gates the drop of top1, not (bal|top1)"):
        load_recipe(write(tmp_path, f"gates: {{{gate}}}\n"))
    task = "task: {name: classification, output: logits}\n"
    assert not load_recipe(write(tmp_path, f"{task}gates: {{{gate}}}\n")).is_classifier
    assert load_recipe(write(tmp_path, "gates: {metric: [top1]}\n")).is_classifier


@pytest.mark.parametrize(
    "text",
    [
        "task: {name: custom, function: 'm.py:f'}\n",
        "data: {calibration: 'python:d.py:f'}\n",
        "data: {validation: 'python:d.py:f'}\n",
    ],
)
def test_code_of_a_recipe_needs_trust(tmp_path, text: str) -> None:
    with pytest.raises(RecipeError, match=r"r.yaml:3: .*names Python code") as caught:
        load_recipe(write(tmp_path, text))
    assert "--trust-recipe" in caught.value.hint
    trusted = load_recipe(write(tmp_path, text), trusted=True)
    if "task" in text:  # relative to the recipe, not to where it is run
        assert trusted.task[0].model_extra == {"function": str(tmp_path / "m.py:f")}


@pytest.mark.parametrize(
    ("key", "option", "text"),
    [
        ("task", "--task", "task: {name: custom, function: 'm.py:f'}\n"),
        ("data.train", "--train-data", "data: {train: 'python:d.py:f'}\n"),
    ],
)
def test_a_command_of_one_stage_runs_no_code_of_a_recipe(
    tmp_path, key: str, option: str, text: str
) -> None:
    recipe = write(tmp_path, text)
    with pytest.raises(RecipeError, match=rf"r.yaml:3: `{key}` names Python code") as caught:
        stage_recipe(recipe, {}, runs={key: option})
    assert caught.value.hint == f"Read it, then give it as {option}."
    given = [{"name": "outputs"}] if key == "task" else "fashion-mnist"
    stage_recipe(recipe, {key: given}, runs={key: option})
    stage_recipe(recipe, {}, runs={"model.source": "--model"})


def test_samples_of_a_training_recipe_that_are_code_are_not_run(tmp_path) -> None:
    recipe = tmp_path / "t.yaml"
    recipe.write_text("\ndata: 'python:evil.py:make'\ntraining: {architecture: resnet8}\n")
    with pytest.raises(RecipeError, match=r"t.yaml:2: `data:` names Python code") as caught:
        load_training_recipe(recipe)
    assert caught.value.hint == "Read it, then give it as --data."
    load_training_recipe(recipe, data="python:evil.py:make")
