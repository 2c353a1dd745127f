"""Every key of a recipe, changed alone: the stages that depend on it are done again, no others.

The list of keys comes from the recipe's own classes: a new key fails the first test until somebody
says here which stages it changes.
"""

from __future__ import annotations

import shutil
import types
import typing
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from edgeres.backends import get_backend
from edgeres.backends.base import BuildConfig, ShapeRange
from edgeres.data.log_mel import LogMel
from edgeres.data.preprocess import Preprocess
from edgeres.pipeline import convert as pipeline
from edgeres.pipeline.keys import build_key
from edgeres.pipeline.source import CHECKPOINT
from edgeres.recipe.block import Block
from edgeres.recipe.preprocess import LogMelBlock, PreprocessBlock
from edgeres.recipe.quantize import QuantizeBlock, QuantizeSettings
from edgeres.recipe.recipe import Recipe
from edgeres.system.assets import asset_path

from .conftest import write_images
from .playback import Keys, Playback, Recorder, changed, keys_of
from .recipe_effects import EFFECT

pytestmark = pytest.mark.skipif(
    get_backend("onnxruntime").missing() is not None, reason="needs onnxruntime"
)


def keys_in(block: type[Block], above: str = "") -> Iterator[str]:
    """Every key that a recipe can have, from its classes, with dots between."""
    for name, info in block.model_fields.items():
        inner = [kind for kind in _kinds(info.annotation) if _is_block(kind)]
        if name == "task":  # one or a list; what is said beside its keys is the task's own
            yield name
        elif name == "build":
            yield from keys_in(inner[0], f"{above}build.onnxruntime.")
        elif inner and info.annotation not in _mappings(info.annotation):
            yield from keys_in(inner[0], f"{above}{name}.")
        else:
            yield f"{above}{name}"


def _kinds(annotation: Any) -> list[Any]:
    inside = typing.get_args(annotation)
    return [annotation, *(kind for part in inside for kind in _kinds(part))]


def _mappings(annotation: Any) -> list[Any]:
    return [annotation] if typing.get_origin(annotation) is dict else []


def _is_block(kind: Any) -> bool:
    return (
        isinstance(kind, type)
        and not isinstance(kind, types.GenericAlias)
        and issubclass(kind, Block)
    )


def test_every_key_of_a_recipe_is_here():
    assert set(EFFECT) == set(keys_in(Recipe))
    assert {"prune.finetune.seed", "quantize.qat.flip", "build.onnxruntime.options"} <= set(EFFECT)


@pytest.fixture(scope="module")
def place(kills: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Networks and images that the recipes name."""
    folder = tmp_path_factory.mktemp("keys")
    kills.write_network(folder / "net.onnx")
    raw = (folder / "net.onnx").read_bytes().replace(b"small", b"other", 1)
    (folder / "other.onnx").write_bytes(raw)
    for seed, name in enumerate(("calibration", "validation", "train", "more")):
        write_images(folder / f"{name}.npz", seed=seed, count=60)
    shutil.copyfile(
        asset_path("recipes", "checkpoints/fmnist_resnet20.safetensors"), folder / "n.safetensors"
    )
    with_space = (folder / "n.safetensors").read_bytes()
    (folder / "other.safetensors").write_bytes(with_space[:-4] + b"\0\0\0\0")
    (folder / "answer.npz").write_bytes(b"is read by the stage")
    (folder / "labels.txt").write_text("\n".join(f"class {k}" for k in range(10)))
    return folder


def recipe_of(place: Path, name: str) -> Recipe:
    onnx: dict[str, Any] = {
        "model": {"source": f"{place}/net.onnx"},
        "preprocess": {"mean": [0.286], "std": [0.353], "channels": 1},
        "data": {
            "calibration": f"npz:{place}/calibration.npz",
            "validation": f"npz:{place}/validation.npz",
            "calibration_samples": 16,
            "validation_samples": 40,
        },
        "targets": ["onnxruntime"],
        "gates": {"untrained": True, "max_drop": 100},
        "benchmark": {"seconds": 0.02},
    }
    layers = {"report": {"layers": True, "layer_samples": 10}}
    images = {**onnx["data"], "train": f"npz:{place}/train.npz"}
    train = {"epochs": 1, "batch_size": 16, "held_out": 10}
    trained = {
        **onnx,
        "model": {"source": "resnet20", "weights": f"{place}/n.safetensors"},
        "preprocess": None,
        "data": images,
        "prune": {"finetune": train, "sparse": {"epochs": 1}},
        "quantize": {"qat": train},
    }
    timed = {"allocation": "latency", "target_latency": 0.5, "latency_on": "onnxruntime"}
    measured = {"rounding": "learned", "bias_correction": "empirical", "equalize": True}
    return Recipe.model_validate(
        {
            "plain": {**onnx, **layers},
            "onnx": {**onnx, **layers, "quantize": {**measured, "measured_samples": 4}},
            "mixed": {
                **onnx,
                "quantize": {"mixed_precision": {"min_sqnr_db": 10.0, "samples": 8}},
            },
            "trained": trained,
            "timed": {
                **trained,
                "prune": {"finetune": train, **timed},
                "targets": ["onnxruntime", "openvino"],
            },
        }[name]
    )


@pytest.fixture(scope="module")
def recorded(place: Path) -> Iterator[dict[str, Recorder]]:
    """Each recipe run once, as far as its stages are quick; pruning keeps the network."""

    def keep(folder: Path, _: Path) -> None:
        shutil.copyfile(next(place.glob("trained/load-*")) / CHECKPOINT, folder / CHECKPOINT)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pipeline, "latencies", lambda *_: {})  # measured anew in every run
        patched.setattr(pipeline, "make_report", lambda *_, **__: SimpleNamespace(targets={}))
        patched.setattr(pipeline, "check_baseline", lambda *_, **__: None)  # a verdict, no result
        found = {}
        for name in ("plain", "onnx", "mixed", "trained", "timed"):
            store = Recorder(
                place / name,
                end_at=frozenset({"qat", "mixed_precision", "latency"}),
                instead={"prune": keep},
            )
            keys_of(recipe_of(place, name), store)
            found[name] = store
        yield found


@pytest.fixture(scope="module")
def before(recorded: dict[str, Recorder]) -> dict[str, Keys]:
    return {name: dict(store.keys) for name, store in recorded.items()}


def test_runs_reach_the_stages_that_are_asked_about(before):
    reached = {place[0] for keys in before.values() for place in keys}
    assert {stage for _, _, stages in EFFECT.values() for stage in stages} <= reached | {
        *("keep_float", "pixels"),  # which only the changed recipe has
    }


def test_equal_recipes_have_equal_keys(place, recorded, before):
    for name, store in recorded.items():
        assert changed(before[name], keys_of(recipe_of(place, name), _again(store))) == set()


def _again(store: Recorder) -> Playback:
    return Playback(store.root, made=store.made)


@pytest.mark.parametrize("key", [key for key, (_, value, _) in EFFECT.items() if value is not None])
def test_a_changed_key_changes_the_stages_that_depend_on_it(place, recorded, before, key):
    name, value, stages = EFFECT[key]
    if "openvino" in str(value) and get_backend("openvino").missing() is not None:
        pytest.skip("needs openvino")
    told = value if isinstance(value, dict) and all("." in part for part in value) else {key: value}
    told = {
        part: text.format(place=place) if isinstance(text, str) else text
        for part, text in told.items()
    }
    recipe = recipe_of(place, name).override(told)
    assert recipe != recipe_of(place, name), "the value is what it was"
    after = keys_of(recipe, _again(recorded[name]))
    assert changed(before[name], after) == set(stages)


def test_every_setting_of_the_preprocessing_is_in_the_keys():
    every = {field.name for field in fields(Preprocess)}
    rare = {"antialias": False, "letterbox": 8, "letterbox_fill": 0, "features": True}
    told = Preprocess(channels=1, log_mel=LogMel(), **rare).to_dict()
    assert set(told) == every
    assert set(PreprocessBlock.model_fields) == every | {"crop_pct"}  # which stands for a resize
    assert LogMelBlock.model_fields.keys() == {field.name for field in fields(LogMel)}


def test_settings_that_few_networks_need_leave_earlier_keys_as_they_were():
    assert set(Preprocess().to_dict()) == {
        *("scale", "mean", "std", "resize", "crop"),
        *("channel_order", "layout", "channels", "interpolation"),
    }


def test_everything_that_is_asked_of_a_build_is_in_its_key():
    asked = BuildConfig("cuda:1", 3, {"in": ShapeRange((1,), (2,), (4,))}, {"a": "b"}, tuned=False)
    for field in fields(BuildConfig):
        one = replace(BuildConfig(), **{field.name: getattr(asked, field.name)})
        assert build_key(one) != build_key(BuildConfig()), field.name


def test_a_part_of_a_block_holds_its_own_keys_alone():
    block = QuantizeBlock(
        calibrator="minmax", rounding="learned", measured_samples=7, equalize=True
    )
    assert block.part() == QuantizeSettings(
        calibrator="minmax", rounding="learned", measured_samples=7
    )
    assert set(block.part().key()) == set(QuantizeSettings.model_fields)
    assert block.without_images() == QuantizeSettings(calibrator="minmax")
    measured = QuantizeSettings(bias_correction="empirical")
    assert measured.without_images().bias_correction == "analytic"
    off = QuantizeSettings(bias_correction="off", rounding="learned")
    assert off.without_images().bias_correction == "off"
