"""``train_and_test`` on files: recipe in, checkpoint and result out, test images touched once."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgeres.data.arrays import ArrayDataset
from edgeres.data.preprocess import Preprocess
from edgeres.errors import ArtefactError, RecipeError
from edgeres.models.checkpoint import load_checkpoint
from edgeres.pipeline.recipe_file import load_training_recipe
from edgeres.recipe.training import TrainSettings
from edgeres.training import run
from edgeres.training.run import RESULT_NAME, train_and_test


@pytest.fixture
def quick(settings: TrainSettings) -> TrainSettings:
    return settings.replace(epochs=1)


def test_tests_once(
    tmp_path: Path,
    quick: TrainSettings,
    preprocess: Preprocess,
    make_set: Callable[..., ArrayDataset],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened: list[str] = []

    def open_dataset(spec: str, *, split: str) -> ArrayDataset:
        opened.append(split)
        return make_set(90, 0) if split == "train" else make_set(30, 2)

    monkeypatch.setattr(run, "open_dataset", open_dataset)
    first = train_and_test(quick, "any", tmp_path, preprocess=preprocess)
    assert opened == ["train", "validation"]
    assert first.test_samples == 30
    assert first.test_top1 is not None
    assert json.loads((tmp_path / RESULT_NAME).read_text()) == dataclasses.asdict(first)
    notes = load_checkpoint(tmp_path / first.checkpoint).metadata
    assert notes["test_top1"] == f"{first.test_top1:.4f}"
    again = train_and_test(quick, "any", tmp_path, preprocess=preprocess)
    assert opened == ["train", "validation", "train"]
    assert again == first
    (tmp_path / RESULT_NAME).write_text("[]")
    with pytest.raises(ArtefactError, match=RESULT_NAME):
        train_and_test(quick, "any", tmp_path, preprocess=preprocess)


def test_a_source_without_parts_has_no_test(
    tmp_path: Path,
    quick: TrainSettings,
    preprocess: Preprocess,
    make_set: Callable[..., ArrayDataset],
) -> None:
    data = make_set(90)
    file = tmp_path / "set.npz"
    np.savez(file, images=data.images, labels=data.labels)
    result = train_and_test(quick, f"npz:{file}", tmp_path / "out", preprocess=preprocess)
    assert result.test_top1 is None
    assert result.test_samples == 0
    assert result.held_out == quick.held_out


def test_shipped_training_recipes_load() -> None:
    folder = Path(__file__).parents[2] / "recipes" / "training"
    files = sorted(folder.glob("*.yaml"))
    assert len(files) >= 2
    for file in files:
        recipe = load_training_recipe(file)
        assert recipe.preprocess is not None
        assert recipe.data in ("fashion-mnist", "audiofolder:spoken_words")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("data: x\ntraining: {epochs: 0}", "epochs"),
        ("data: x\ntraining: {epoch: 3}", "epoch"),
        ("data: x\ntrainin: {}", "trainin"),
        ("training: {}", "data"),
        ("data: [x]", "data"),
        ("data: x\ntraining: 3", "training"),
        ("data: x\ndata: y", "duplicate"),
        ("data: x\npreprocess: {std: [0]}", "std"),
        ("data: [", "not valid YAML"),
        ("data: x\ntraining: {distill: true}", r":2: unknown key `training.distill`"),
        ("data: x\ntraining: {flip: 1}", r":2: `training.flip`"),
        ("", "is a mapping"),
    ],
)
def test_bad_recipes(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    with pytest.raises(RecipeError, match=said) as caught:
        load_training_recipe(file)
    assert "\n" not in str(caught.value)


def test_missing_recipe(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot be read"):
        load_training_recipe(tmp_path / "none.yaml")
