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

pytestmark = pytest.mark.skipif(
    get_backend("onnxruntime").missing() is not None, reason="needs onnxruntime"
)

NO_STAGE: frozenset[str] = frozenset()
LAYERS = {"compare_layers", "sensitivity"}
FORWARD = {"parity", "calibrate", "quantize", "evaluate", *LAYERS}  # what reads preprocessed images
PREPARED = {"calibrate", "mixed_precision"}
TRAINED = {"prune", "calibrate", "qat"}

# Key: recipe, its new value (or several keys that only go together; `None` where these networks
# can have no other), and the stages whose own key changes.
EFFECT: dict[str, tuple[str, Any, set[str] | frozenset[str]]] = {
    "name": ("onnx", "another", NO_STAGE),
    "model.source": ("onnx", "{place}/other.onnx", {"load", "parity"}),
    "model.weights": ("trained", "{place}/other.safetensors", {"load"}),
    "model.num_classes": ("trained", 10, {"load"}),
    "model.labels": ("trained", "{place}/labels.txt", {"load"}),
    "model.declared_top1": ("onnx", 0.05, NO_STAGE),
    "model.sample_answer": ("trained", "{place}/answer.npz", {"load"}),
    "model.outputs": ("onnx", ["logits"], {"load"}),
    "model.input_size": ("onnx", [28, 28], {"load"}),
    "model.given_scales": ("onnx", "remove", {"load"}),
    "preprocess.scale": ("onnx", 0.01, FORWARD),
    "preprocess.mean": ("onnx", [0.5], FORWARD),
    "preprocess.std": ("onnx", [0.5], FORWARD),
    # An open size is that of the images; this file's is not open, so the same comes out.
    "preprocess.resize": ("onnx", 30, {"load", *FORWARD}),
    "preprocess.crop": ("onnx", 24, {"load", *FORWARD}),
    "preprocess.crop_pct": (
        "onnx",
        {"preprocess.crop_pct": 0.8, "preprocess.crop": 24},
        {"load", *FORWARD},
    ),
    "preprocess.channel_order": ("onnx", None, FORWARD),
    "preprocess.layout": ("onnx", "nhwc", {"load", *FORWARD}),
    "preprocess.interpolation": ("onnx", "bicubic", FORWARD),
    "preprocess.antialias": ("onnx", False, FORWARD),
    "preprocess.letterbox": ("onnx", 30, {"load", *FORWARD}),
    "preprocess.letterbox_fill": ("onnx", 7, FORWARD),
    "preprocess.channels": ("trained", 1, NO_STAGE),  # said already by the checkpoint
    "preprocess.features": ("onnx", None, FORWARD),  # these networks take images
    **{f"preprocess.log_mel.{key}": ("onnx", None, FORWARD) for key in LogMelBlock.model_fields},
    "data.calibration": ("onnx", "npz:{place}/more.npz", {"overlap", "calibrate", "quantize"}),
    "data.validation": ("onnx", "npz:{place}/more.npz", {"overlap", "parity", "evaluate", *LAYERS}),
    "data.train": ("trained", "npz:{place}/more.npz", {"prune", "qat"}),
    "data.calibration_samples": ("onnx", 20, {"overlap", "calibrate", "quantize"}),
    "data.validation_samples": ("onnx", 20, {"overlap", "evaluate"}),  # layers see the first ten
    "prune.importance": ("trained", "l1", {"prune"}),
    "prune.normalization": ("trained", "mean", {"prune"}),
    "prune.allocation": ("trained", "uniform", {"prune"}),
    "prune.macs_ratio": ("trained", 0.7, {"prune"}),
    "prune.widths": (
        "trained",
        {"prune.widths": {"stage1": 8}, "prune.allocation": "per_layer"},
        {"prune"},
    ),
    "prune.round_to": ("trained", 4, {"prune"}),
    "prune.iterative_steps": ("trained", 2, {"prune"}),
    "prune.samples": ("trained", 32, {"prune"}),
    "prune.reconstruct": ("trained", False, {"prune"}),
    "prune.finetune.distill": ("trained", False, {"prune"}),
    "prune.finetune.distill_weight": ("trained", 0.5, {"prune"}),
    "prune.finetune.distill_temperature": ("trained", 2.0, {"prune"}),
    "prune.finetune.held_out": ("trained", 20, {"prune"}),
    # The layers are measured first, a stage that the other run does not have; pruning is last.
    "prune.target_latency": (
        "trained",
        {"prune.target_latency": 0.5, "prune.allocation": "latency"},
        {"latency", "prune", "export", "calibrate", "build", "evaluate", "qat"},
    ),
    "prune.latency_on": ("timed", "openvino", {"latency"}),
    "prune.only_if_faster": ("trained", True, NO_STAGE),
    "prune.min_share": ("trained", 0.2, {"prune"}),
    "prune.ignored_groups": ("trained", ["stage1"], {"prune"}),
    "prune.seed": ("trained", 1, {"prune"}),
    "prune.epochs_between": (
        "trained",
        {"prune.epochs_between": 1, "prune.iterative_steps": 2},
        {"prune"},
    ),
    "prune.sparse.strength": ("trained", 0.01, {"prune"}),
    "quantize.precision": (
        "plain",
        "fp32",
        {"quantize", "keep_float", "build", "evaluate", "inspect", *LAYERS},
    ),
    "quantize.calibrator": ("onnx", "minmax", {"calibrate", "quantize", "sensitivity"}),
    "quantize.bias_correction": ("onnx", "off", {"quantize", "sensitivity"}),
    "quantize.saturation_safe": ("onnx", "on", {"quantize", "sensitivity"}),
    "quantize.activations": ("plain", "int8", {"quantize", "sensitivity"}),
    "quantize.portable": ("plain", True, {"quantize", "sensitivity"}),
    "quantize.rounding": ("onnx", "nearest", {"quantize"}),
    "quantize.equalize": ("onnx", False, {"equalize"}),
    "quantize.measured_samples": ("onnx", 5, {"quantize"}),
    "quantize.qat.distill": ("trained", False, {"qat"}),
    "quantize.qat.distill_weight": ("trained", 0.5, {"qat"}),
    "quantize.qat.distill_temperature": ("trained", 2.0, {"qat"}),
    "quantize.qat.held_out": ("trained", 20, {"qat"}),
    "quantize.mixed_precision.max_drop": ("mixed", 1.0, {"mixed_precision"}),
    "quantize.mixed_precision.min_agreement": ("mixed", 0.5, {"mixed_precision"}),
    "quantize.mixed_precision.min_sqnr_db": ("mixed", 20.0, {"mixed_precision"}),
    "quantize.mixed_precision.samples": ("mixed", 10, {"mixed_precision"}),
    "quantize.mixed_precision.candidates": ("mixed", 3, {"mixed_precision"}),
    "quantize.mixed_precision.seconds": ("mixed", 0.1, {"mixed_precision"}),
    "export.opset": ("trained", 21, {"export"}),
    "export.dynamic_batch": ("trained", False, {"export"}),
    # The network and the preprocessing are others from here on.
    "export.input": (
        "plain",
        "uint8",
        {"pixels", "calibrate", "quantize", "build", "inspect", "evaluate", *LAYERS},
    ),
    "export.input_layout": (
        "plain",
        {"export.input": "uint8", "export.input_layout": "nchw"},
        {"pixels", "calibrate", "quantize", "build", "inspect", "evaluate", *LAYERS},
    ),
    # What the other run asks for up to the first stage of the second target.
    "targets": ("plain", ["onnxruntime", "openvino"], {"quantize", "build", "evaluate", *LAYERS}),
    "build.onnxruntime.device": ("onnx", None, NO_STAGE),  # only where there is another device
    "build.onnxruntime.options": ("onnx", {"graph_optimization": "basic"}, {"build"}),
    "build.onnxruntime.shapes": ("onnx", None, NO_STAGE),  # only for backends that specialize
    "task": (
        "onnx",
        None,
        NO_STAGE,
    ),  # stored answers are of another kind: tests/pipeline/test_task_key.py
    "gates.metric": ("onnx", ["top1"], NO_STAGE),
    "gates.floor": ("onnx", None, NO_STAGE),  # only for tasks that are named
    "gates.max_drop": ("onnx", 1.0, NO_STAGE),
    "gates.confidence": ("onnx", 0.9, NO_STAGE),
    "gates.min_int8_coverage": ("mixed", 0.5, {"mixed_precision"}),
    "gates.min_fused_adds": ("onnx", 0.5, NO_STAGE),
    "gates.max_p99_ms": ("onnx", 5.0, NO_STAGE),
    "gates.min_speedup": ("onnx", 1.0, NO_STAGE),
    "gates.max_size_bytes": ("onnx", 10**9, NO_STAGE),
    "gates.untrained": ("mixed", False, NO_STAGE),
    "benchmark.batch_size": ("mixed", 2, {"mixed_precision"}),
    "benchmark.threads": ("mixed", 1, {"mixed_precision"}),
    "benchmark.seconds": ("mixed", 0.1, NO_STAGE),
    "report.layers": ("onnx", False, LAYERS),
    "report.layer_samples": ("onnx", 20, LAYERS),
}

# What every training knows, in each block that trains.
TRAINING: dict[str, Any] = {
    "epochs": 2,
    "batch_size": 8,
    "learning_rate": 0.1,
    "schedule": "cosine",
    "warmup_fraction": 0.3,
    "final_fraction": 0.1,
    "momentum": 0.8,
    "weight_decay": 0.1,
    "label_smoothing": 0.1,
    "flip": False,
    "crop_padding": 1,
    "erase_probability": 0.5,
    "erase_area": [0.1, 0.2],
    "time_shift": 1,
    "time_mask": 1,
    "frequency_mask": 1,
    "ema_decay": 0.9,
    "precision": "float32",
    "device": "cpu",
    "threads": 1,
    "seed": 1,
}
for _block, _stage in (
    ("prune.finetune", "prune"),
    ("prune.sparse", "prune"),
    ("quantize.qat", "qat"),
):
    for _key, _value in TRAINING.items():
        _effect = NO_STAGE if _key in ("device", "threads") else {_stage}
        EFFECT[f"{_block}.{_key}"] = ("trained", _value, _effect)
EFFECT["quantize.qat.precision"] = ("trained", None, {"qat"})  # float32 alone


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
