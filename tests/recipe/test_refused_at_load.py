"""What a stage would refuse, or silently not do, is refused when the recipe is read.

Each with file, line and key. The stage takes the same class, so it refuses the same values.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import edgeres
from edgeres.benchmarking.latency import MeasureSettings
from edgeres.errors import RecipeError, UsageError
from edgeres.pipeline.recipe_file import load_recipe
from edgeres.recipe.block import Block
from edgeres.recipe.recipe import Recipe
from edgeres.recipe.training import FinetuneSettings

HEAD = "model: {source: net.onnx}\ntargets: [onnxruntime]\n"
TORCH = "model: {source: net.safetensors}\ntargets: [onnxruntime]\n"


@pytest.mark.parametrize(
    ("text", "line", "key"),
    [
        ("gates:\n  confidence: 0.3\n", 4, "gates.confidence"),
        ("gates:\n  max_drop: -101\n", 4, "gates.max_drop"),
        ("benchmark:\n  seconds: 121\n", 4, "benchmark.seconds"),
        ("prune:\n  widths: {conv1: 8}\n", 4, "widths"),
        ("prune:\n  allocation: global\n  widths: {conv1: 8}\n", 5, "widths"),
        ("prune:\n  allocation: per_layer\n", 3, "widths"),
        ("prune:\n  target_latency: 0.5\n", 4, "target_latency"),
        ("prune:\n  allocation: latency\n", 3, "target_latency"),
        ("prune:\n  latency_on: openvino\n", 4, "latency_on"),
        (
            "prune:\n  allocation: latency\n  target_latency: 0.5\n  latency_on: abacus\n",
            6,
            "prune.latency_on",
        ),
        (
            "prune:\n  iterative_steps: 2\n  finetune: null\n  epochs_between: 1\n",
            6,
            "epochs_between",
        ),
        ("prune:\n  epochs_between: 1\n", 4, "epochs_between"),
        ("prune:\n  finetune: {distill: false, distill_weight: 0.5}\n", 4, "distill_weight"),
        ("prune:\n  finetune:\n    device: toaster\n", 5, "prune.finetune.device"),
        ("prune:\n  sparse:\n    held_out: 5\n", 5, "prune.sparse.held_out"),
        ("quantize:\n  qat:\n    precision: bfloat16\n", 5, "quantize.qat.precision"),
        ("quantize:\n  measured_samples: 8\n", 4, "measured_samples"),
        ("preprocess:\n  mean: [0.1, 0.2]\n", 4, "mean"),
        ("preprocess:\n  mean: []\n", 4, "mean"),
        ("preprocess:\n  channels: 1\n  channel_order: bgr\n", 5, "channel_order"),
        ("preprocess:\n  resize: 20000\n", 4, "resize"),
        ("benchmark: {batch_size: 2}\nexport: {dynamic_batch: false}\n", 3, "benchmark.batch_size"),
        (
            "build:\n  tensorrt:\n    shapes: {x: {min: [2], opt: [1], max: [4]}}\n",
            5,
            "build.tensorrt.shapes.x",
        ),
        ("report:\n  layers: 1\n", 4, "report.layers"),
        ("prune:\n  samples: true\n", 4, "prune.samples"),
        # names of before
        ("prune:\n  steps: 2\n", 4, "prune.steps"),
        ("prune:\n  exclude: [conv1]\n", 4, "prune.exclude"),
    ],
)
def test_it_is_refused_with_file_line_and_key(
    tmp_path: Path, text: str, line: int, key: str
) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(TORCH + text)
    with pytest.raises(RecipeError) as caught:
        load_recipe(file)
    assert str(caught.value).startswith(f"{file}:{line}: ")
    assert f"`{key}`" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "meant"),
    [("iterativ_steps: 2", "iterative_steps"), ("ignore_groups: [a]", "ignored_groups")],
)
def test_a_key_that_is_almost_right_is_named(tmp_path: Path, key: str, meant: str) -> None:
    (tmp_path / "recipe.yaml").write_text(HEAD + f"prune: {{{key}}}\n")
    with pytest.raises(RecipeError, match=f"Did you mean `{meant}`"):
        load_recipe(tmp_path / "recipe.yaml")


def test_a_gain_may_be_asked_for_by_both() -> None:
    assert edgeres.Limits(max_drop=-5.0).max_drop == -5
    recipe = load_recipe(None, {"gates.max_drop": -5.0})
    assert recipe.gates.max_drop == -5
    assert isinstance(recipe.gates, edgeres.Limits)


def test_a_time_that_would_be_cut_is_refused_by_the_measurement_too() -> None:
    with pytest.raises(UsageError, match="seconds: expected at most 120"):
        MeasureSettings(seconds=121.0)


def test_a_wrong_value_in_python_is_one_line_too() -> None:
    with pytest.raises(UsageError) as caught:
        edgeres.PruneSettings(finetune=FinetuneSettings(), macs_ratio=1.5)
    assert str(caught.value) == (
        "PruneSettings: `macs_ratio`: Input should be less than 1, got 1.5."
    )
    with pytest.raises(RecipeError, match=r"`targets`: Input should be a list, got 'openvino'"):
        load_recipe(None).override({"targets": "openvino"})
    with pytest.raises(RecipeError, match=r"recipe: `gates.confidence`: .* got 2.0"):
        load_recipe(None).override({"gates.confidence": 2.0})


def blocks() -> Iterator[tuple[type[Block], str]]:
    """Every class in a recipe with every field of it."""
    waiting, seen = [Recipe], set()
    while waiting:
        kind: Any = waiting.pop()
        if kind in seen:
            continue
        seen.add(kind)
        for name, field in kind.model_fields.items():
            yield kind, name
            waiting += [part for part in _parts(field.annotation) if _is_block(part)]


def _parts(annotation: Any) -> list[Any]:
    return [annotation, *(p for inner in typing.get_args(annotation) for p in _parts(inner))]


def _is_block(kind: Any) -> bool:
    plain = isinstance(kind, type) and not isinstance(kind, types.GenericAlias)
    return plain and issubclass(kind, Block)


FIELDS = sorted(set(blocks()), key=lambda pair: (pair[0].__name__, pair[1]))
EDGES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 10**6),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.floats(-1, 2), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(-1, 9), max_size=2),
)


@given(st.sampled_from(FIELDS), EDGES)
def test_any_value_is_taken_or_refused_in_one_line(pair: Any, value: Any) -> None:
    kind, name = pair
    said = ""
    try:
        block = kind(**{name: value})
        assert kind.model_validate(block.model_dump()) == block
        assert block.replace() == block
    except UsageError as error:
        said = str(error)
    assert "\n" not in said
    assert not said or said.startswith(f"{kind.__name__}: ")
