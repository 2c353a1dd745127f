"""Preprocessing and class names that stand beside weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from edgeres.data.preprocess import Preprocess
from edgeres.errors import ModelError
from edgeres.models.build import build_model
from edgeres.models.checkpoint import load_checkpoint
from edgeres.models.plan import plan_for

HF = {"model_type": "resnet", "id2label": {"0": "cat", "1": "dog", "2": "owl"}}
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
CFG = {
    "input_size": [3, 224, 224],
    "crop_pct": 0.95,
    "interpolation": "bicubic",
    "mean": MEAN,
    "std": STD,
    "crop_mode": "center",
}
CONVNEXT = {
    "image_processor_type": "ConvNextImageProcessor",
    "image_mean": MEAN,
    "image_std": STD,
    "resample": 3,
    "size": {"shortest_edge": 224},
    "crop_pct": 0.875,
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Weights of three classes, alone in a folder."""
    plan = plan_for("resnet18", num_classes=3, width_multiplier=0.125)
    save_file(dict(build_model(plan).state_dict()), tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def say(folder: Path, content: object, name: str = "config.json") -> None:
    (folder / name).write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, {"resize": 235, "crop": 224, "interpolation": "bicubic"}),
        ({"crop_pct": 0.875, "interpolation": "bilinear"}, {"resize": 256, "crop": 224}),
        (
            {"crop_mode": "squash", "crop_pct": 1.0},
            {"resize": (224, 224), "crop": 224, "interpolation": "bicubic"},
        ),
    ],
)
def test_timm(change: dict[str, Any], expected: dict[str, Any], path: Path) -> None:
    cfg = {**CFG, **change}
    names = ["cat", "dog", "owl"]
    say(path.parent, {"architecture": "resnet18", "label_names": names, "pretrained_cfg": cfg})
    loaded = load_checkpoint(path)
    assert loaded.preprocess == Preprocess(mean=tuple(MEAN), std=tuple(STD), **expected)
    assert loaded.class_names == ("cat", "dog", "owl")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, {"resize": 256, "crop": 224, "interpolation": "bicubic"}),
        ({"size": 224, "resample": 2}, {"resize": 256, "crop": 224}),
        ({"size": {"shortest_edge": 384}}, {"resize": (384, 384), "interpolation": "bicubic"}),
    ],
)
def test_hugging_face(change: dict[str, Any], expected: dict[str, Any], path: Path) -> None:
    say(path.parent, HF)
    say(path.parent, {**CONVNEXT, **change}, "preprocessor_config.json")
    loaded = load_checkpoint(path)
    assert loaded.preprocess == Preprocess(mean=tuple(MEAN), std=tuple(STD), **expected)
    assert loaded.class_names == ("cat", "dog", "owl")


@pytest.mark.parametrize(
    "change",
    [
        {"resample": 5},
        {"image_mean": "x"},
        {"image_std": [0, 0, 0]},
        {"size": {"shortest_edge": 0}},
    ],
)
def test_nonsense_is_one_line(change: dict[str, Any], path: Path) -> None:
    say(path.parent, {**CONVNEXT, **change}, "preprocessor_config.json")
    with pytest.raises(ModelError, match=r"preprocessor_config\.json makes no sense") as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_made_up_names_and_other_counts(path: Path) -> None:
    made_up = {str(i): f"LABEL_{i}" for i in range(3)}
    say(path.parent, {**HF, "id2label": made_up})
    assert load_checkpoint(path).class_names == ()
    say(path.parent, {"architecture": "resnet18", "label_names": ["a", "b"]})
    with pytest.raises(ModelError, match="names 2 classes, the weights have 3"):
        load_checkpoint(path)
