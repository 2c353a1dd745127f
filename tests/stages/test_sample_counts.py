"""Default numbers of images shrink to what is there; numbers that were asked for do not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgeres.data.arrays import ArrayDataset
from edgeres.errors import DataError
from edgeres.pipeline.measure import timed_batches
from edgeres.recipe.recipe import Recipe
from edgeres.stages.sample_counts import fit_held_out, fit_recipe, fit_sensitivity
from edgeres.training.split import split_held_out


def images(count: int) -> ArrayDataset:
    labels = np.arange(count, dtype=np.int64) % 5
    return ArrayDataset("photos", np.zeros((count, 4, 4), np.uint8), labels, tuple("abcde"))


def recipe(**blocks: Any) -> Recipe:
    return Recipe.model_validate(
        {"model": {"source": "net.pth"}, "targets": ["onnxruntime"], **blocks}
    )


MIXED = {"mixed_precision": {"max_drop": 1.0}}


@pytest.mark.parametrize(
    ("blocks", "used", "judging"),
    [
        ({}, 250, None),
        ({"data": {"calibration_samples": 200}}, 200, None),
        ({"quantize": MIXED}, 167, 83),
        ({"data": {"calibration_samples": 200}, "quantize": MIXED}, 200, 50),
        ({"quantize": {"mixed_precision": {"max_drop": 1.0, "samples": 100}}}, 150, 100),
    ],
)
def test_calibration_takes_what_is_there(
    blocks: dict[str, Any], used: int, judging: int | None
) -> None:
    fitted = fit_recipe(recipe(**blocks), images(250), images(250))
    assert fitted.recipe.data.calibration_samples == used
    block = fitted.recipe.quantize.mixed_precision
    assert (None if block is None else block.samples) == judging
    assert fitted.note.startswith("few images: ") == (used != 200 or judging is not None)
    assert "\n" not in fitted.note


@pytest.mark.parametrize(
    "blocks",
    [
        {"data": {"calibration_samples": 251}},
        {"data": {"calibration_samples": 250}, "quantize": MIXED},
        {"quantize": {"mixed_precision": {"max_drop": 1.0, "samples": 250}}},
        {"benchmark": {"batch_size": 251}},
        {"benchmark": {"batch_size": 90}, "quantize": MIXED},
    ],
)
def test_what_was_asked_for_and_cannot_be_is_an_error(blocks: dict[str, Any]) -> None:
    with pytest.raises(DataError):
        fit_recipe(recipe(**blocks), images(250), images(250))


def test_enough_images_change_nothing() -> None:
    wanted = recipe(data={"train": "fashion-mnist"}, prune={})
    fitted = fit_recipe(wanted, images(600), images(100))
    assert fitted.recipe is wanted
    assert fitted.note == ""


def test_training_images(tmp_path: Any) -> None:
    labels = images(250).labels
    assert fit_held_out(labels, 5000, given=False)[0] == 50
    assert fit_held_out(labels, 30, given=False) == (30, "")
    with pytest.raises(DataError, match="1000 of them cannot be held out"):
        fit_held_out(labels, 5000, given=True)
    np.savez(tmp_path / "d.npz", images=np.zeros((250, 4, 4), np.uint8), labels=labels)
    spec = f"npz:{tmp_path / 'd.npz'}"
    wanted = recipe(data={"train": spec}, prune={}, quantize={"qat": {}})
    fitted = fit_recipe(wanted, images(600), images(100))
    assert fitted.recipe.prune is not None
    assert fitted.recipe.prune.finetune is not None
    assert fitted.recipe.prune.finetune.held_out == 50
    assert fitted.recipe.quantize.qat is not None
    assert fitted.recipe.quantize.qat.held_out == 50
    assert fitted.note == (
        "few images: 50 of 250 training images choose the epoch (5,000 by default, `held_out`)."
    )
    with pytest.raises(DataError, match="cannot be held out"):
        fit_recipe(
            recipe(data={"train": spec}, prune={"finetune": {"held_out": 5000}}),
            images(600),
            images(100),
        )


@pytest.mark.parametrize(
    "sizes", [(2, 2), (2, 400), (3, 9, 100), (50, 50, 50, 50, 50), (6000,) * 10]
)
def test_every_class_keeps_half_of_its_images(sizes: tuple[int, ...]) -> None:
    labels = np.repeat(np.arange(len(sizes), dtype=np.int64), sizes)
    count, _ = fit_held_out(labels, 5000, given=False)
    learn, check = split_held_out(labels, count, 0)
    assert len(check) == count
    kept = np.bincount(labels[learn], minlength=len(sizes))
    assert (2 * kept >= np.array(sizes)).all()


def test_sensitivity() -> None:
    assert fit_sensitivity(None, 256, 250, calibrated=False) == 125
    assert fit_sensitivity(None, 256, 250, calibrated=True) == 250
    assert fit_sensitivity(None, 256, 2000, calibrated=False) == 256
    assert fit_sensitivity(300, 256, 250, calibrated=False) == 300


@pytest.mark.parametrize("count", [2, 63, 64, 65, 100, 127, 128, 300])
@pytest.mark.parametrize("size", [1, 64])
def test_two_batches_that_differ_are_timed(count: int, size: int) -> None:
    pixels = np.arange(count, dtype=np.float32)[:, None]
    parts = [pixels[start : start + size] for start in range(0, count, size)]
    found = timed_batches(parts, size)
    if count < size:
        assert found == []
        return
    assert 2 <= len(found) <= 8
    assert all(batch.shape == (size, 1) for batch in found)
    assert any(not np.array_equal(found[0], batch) for batch in found[1:])
