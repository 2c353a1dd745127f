"""The space of a search, and the recipes that its points stand for."""

from __future__ import annotations

import pytest

from edgeres.backends import get_backend
from edgeres.errors import UsageError
from edgeres.recipe.recipe import Recipe
from edgeres.tuning.settings import (
    Candidate,
    TuneSettings,
    budgets_of,
    precisions_of,
    recipe_of,
    space_of,
)

HERE = ("onnxruntime",)
PLAIN = {
    "model": {"source": "net.safetensors"},
    "targets": ["openvino", "onnxruntime"],
    "data": {"train": "fashion-mnist"},
    "prune": {"finetune": {"epochs": 9}, "round_to": 4},
}


@pytest.mark.parametrize(
    "wrong",
    [
        {"trials": 0},
        {"budgets": ()},
        {"budgets": (0.0,)},
        {"budgets": (1.5,)},
        {"budgets": (-1.0,)},
        {"budgets": (float("nan"),)},
        {"importances": ("magic",)},
        {"importances": ()},
        {"calibrators": ("kl",)},
        {"targets": ("null",)},
        {"epochs": -1},
        {"precisions": ("fp8",)},
    ],
)
def test_spaces_that_make_no_sense(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        TuneSettings(**wrong)  # type: ignore[arg-type]


def test_points_become_recipes() -> None:
    recipe = Recipe.model_validate(PLAIN)
    chosen = recipe_of(recipe, Candidate("onnxruntime", 0.65, "l2", "percentile"), epochs=2)
    assert chosen.targets == ("onnxruntime",)
    assert chosen.quantize.calibrator == "percentile"
    assert chosen.prune is not None
    assert chosen.prune.macs_ratio == 0.65
    assert (chosen.prune.importance, chosen.prune.normalization) == ("l2", "lamp")
    assert chosen.prune.round_to == 4
    assert chosen.prune.finetune is not None
    assert chosen.prune.finetune.epochs == 2
    full = recipe_of(recipe, Candidate("openvino", 0.5, "taylor", "mse"))
    assert full.prune is not None
    assert full.prune.finetune is not None
    assert full.prune.finetune.epochs == 9
    assert full.prune.normalization == "none"
    assert recipe_of(recipe, Candidate("openvino", 1.0, "", "mse")).prune is None
    bare = recipe_of(recipe, Candidate("openvino", 0.5, "l1", "mse"), epochs=0)
    assert bare.prune is not None
    assert bare.prune.finetune is None


def test_budgets_are_of_latency_where_the_recipe_prunes_by_it() -> None:
    pruning = {"allocation": "latency", "target_latency": 0.5}
    recipe = Recipe.model_validate({**PLAIN, "prune": pruning})
    chosen = recipe_of(recipe, Candidate("onnxruntime", 0.65, "l2", "mse"))
    assert chosen.prune is not None
    assert chosen.prune.target_latency == 0.65
    assert chosen.prune.latency_on == "onnxruntime"


def test_what_cannot_be_pruned_stays_whole() -> None:
    for change in ({"model": {"source": "net.onnx"}}, {"data": {}}):
        recipe = Recipe.model_validate({**PLAIN, **change, "prune": None})
        assert budgets_of(recipe, TuneSettings()) == (1.0,)
        with pytest.raises(UsageError, match="cannot be pruned"):
            budgets_of(recipe, TuneSettings(budgets=(0.5,)))
    assert budgets_of(Recipe.model_validate(PLAIN), TuneSettings()) == TuneSettings().budgets


def test_precision_becomes_a_recipe() -> None:
    mixed = {"mixed_precision": {"min_sqnr_db": 20}, "equalize": True}
    recipe = Recipe.model_validate({**PLAIN, "quantize": mixed})
    assert precisions_of(recipe, TuneSettings(), HERE) == ("int8", "int8_mixed", "fp32")
    plain = recipe_of(recipe, Candidate("openvino", 1.0, "", "minmax", "int8")).quantize
    assert (plain.precision, plain.mixed_precision, plain.equalize) == ("int8", None, True)
    kept = recipe_of(recipe, Candidate("openvino", 1.0, "", "minmax", "int8_mixed")).quantize
    assert kept.mixed_precision == recipe.quantize.mixed_precision
    chosen = recipe_of(recipe, Candidate("openvino", 0.5, "l2", "", "fp32"))
    assert chosen.quantize.precision == "fp32"
    assert chosen.quantize.mixed_precision is None
    assert chosen.prune is not None
    bare = Recipe.model_validate(PLAIN)
    assert precisions_of(bare, TuneSettings(), HERE) == ("int8", "fp32")
    with pytest.raises(UsageError, match="int8_mixed"):
        precisions_of(bare, TuneSettings(precisions=("int8_mixed",)), HERE)
    back = recipe_of(chosen, Candidate("openvino", 1.0, "", "mse", "int8"))
    assert back.quantize.precision == "int8"


def test_int8_activations_are_tried_where_they_may_be_faster(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = Recipe.model_validate(PLAIN)
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    found = precisions_of(recipe, TuneSettings(), HERE)
    assert found == ("int8", "int8_signed", "fp32")
    space = space_of(("onnxruntime", "openvino"), (1.0,), found, TuneSettings())
    signed = [candidate for candidate in space if candidate.precision == "int8_signed"]
    assert {candidate.target for candidate in signed} == {"onnxruntime"}
    assert signed[0].label == f"onnxruntime, not pruned, {signed[0].calibrator}, int8 activations"
    chosen = recipe_of(recipe, signed[0])
    assert (chosen.quantize.precision, chosen.quantize.activations) == ("int8", "int8")
    back = recipe_of(chosen, Candidate("onnxruntime", 1.0, "", "mse", "int8"))
    assert back.quantize.activations == "auto"
    portable = Recipe.model_validate({**PLAIN, "quantize": {"portable": True}})
    assert "int8_signed" not in precisions_of(portable, TuneSettings(), HERE)
    with pytest.raises(UsageError, match="may not try int8_signed: openvino makes no such"):
        precisions_of(recipe, TuneSettings(precisions=("int8_signed",)), ("openvino",))


def test_half_precision_is_tried_where_a_target_makes_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = Recipe.model_validate(PLAIN)
    with pytest.raises(UsageError, match="may not try fp16: onnxruntime makes no such"):
        precisions_of(recipe, TuneSettings(precisions=("fp16",)), HERE)
    monkeypatch.setattr(type(get_backend("openvino")), "float_builds", lambda _, __: {"bf16": {}})
    found = precisions_of(recipe, TuneSettings(), ("openvino", "tensorrt"))
    assert found == ("int8", "fp16", "bf16", "fp32")
    both = ("onnxruntime", "tensorrt")
    found = precisions_of(recipe, TuneSettings(), both)
    assert found == ("int8", "fp16", "fp32")
    space = space_of(both, (1.0, 0.5), found, TuneSettings(importances=("l2",)))
    halves = [candidate for candidate in space if candidate.precision == "fp16"]
    assert [(c.target, c.budget, c.calibrator) for c in halves] == [
        ("tensorrt", 1.0, ""),
        ("tensorrt", 0.5, ""),
    ]
    assert halves[0].label == "tensorrt, not pruned, fp16"
    mixed = {**PLAIN, "quantize": {"mixed_precision": {"min_sqnr_db": 20}, "equalize": True}}
    chosen = recipe_of(Recipe.model_validate(mixed), halves[1])
    assert chosen.quantize.precision == "fp16"
    assert chosen.targets == ("tensorrt",)
    assert chosen.prune is not None
