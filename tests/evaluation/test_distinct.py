"""Repeated images: counted once however they were repeated, and told."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from edgeres.data.arrays import ArrayDataset
from edgeres.data.preprocess import Preprocess
from edgeres.evaluation.compare import compare
from edgeres.evaluation.distinct import Sketcher, same_images
from edgeres.evaluation.gates import accuracy_check
from edgeres.evaluation.predictions import load_predictions
from edgeres.evaluation.statistics import drop_upper
from edgeres.evaluation.validate import validate
from edgeres.recipe.gates import Limits
from edgeres.tasks.repeats import effective_samples

PLAIN = Preprocess(scale=1 / 255, channels=1)


@pytest.fixture(scope="module")
def photographs() -> np.ndarray:
    """60 smooth 32x32 images, ``(60, 32, 32) uint8``."""
    rng = np.random.default_rng(1)
    small = rng.integers(20, 236, (60, 5, 5), np.uint8)
    return np.stack([np.asarray(Image.fromarray(s).resize((32, 32), 3)) for s in small])


def _answers(images: np.ndarray) -> np.ndarray:
    """Scores of a smooth network: projections of the images, nearly alike for near images."""
    plane = np.random.default_rng(2).standard_normal((images[0].size, 6)) / 1e3
    return (images.reshape(len(images), -1) @ plane).astype(np.float32)


def _groups(images: np.ndarray, preprocess: Preprocess = PLAIN) -> np.ndarray:
    fed = preprocess.normalize(images)
    return same_images(Sketcher(preprocess, fed.shape[1:])(fed), _answers(images))


def _again(image: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def test_different_images_are_different(photographs) -> None:
    assert _groups(photographs).tolist() == list(range(60))


@pytest.mark.parametrize("kind", ["equal", "compressed", "noisy", "brighter"])
def test_the_same_image_again_is_known(photographs, kind: str) -> None:
    rng = np.random.default_rng(3)
    others = {
        "equal": photographs,
        "compressed": np.stack([_again(image, 90) for image in photographs]),
        "noisy": photographs + rng.integers(-2, 3, photographs.shape),
        "brighter": photographs.astype(int) + 2,
    }[kind]
    others = np.clip(others, 0, 255).astype(np.uint8)
    order = rng.permutation(120)
    groups = _groups(np.concatenate([photographs, others])[order])
    assert len(np.unique(groups)) == 60
    assert effective_samples(groups) == 60.0
    assert all(groups[first] == first for first in np.unique(groups))


def test_normalization_and_layout_do_not_matter(photographs) -> None:
    twice = np.concatenate([photographs, np.clip(photographs.astype(int) + 1, 0, 255)])
    twice = np.repeat(twice.astype(np.uint8)[..., None], 3, axis=3)
    for preprocess in (
        Preprocess(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        Preprocess(scale=1.0, mean=(123.0, 117.0, 104.0), layout="nhwc", channel_order="bgr"),
    ):
        assert len(np.unique(_groups(twice, preprocess))) == 60


def test_a_small_defect_that_decides_is_another_image(photographs) -> None:
    pair = np.stack([photographs[0]] * 2)
    pair[1, 4, 4] ^= 64
    fed = PLAIN.normalize(pair)
    sketches = Sketcher(PLAIN, fed.shape[1:])(fed)
    apart = np.array([[5, 0, 0], [0, 5, 0]], dtype=np.float32)
    assert same_images(sketches, apart).tolist() == [0, 1]
    assert same_images(sketches, apart[[0, 0]] + 0.1 * apart[[1, 0]]).tolist() == [0, 0]


def test_many_copies_of_one_are_worth_one() -> None:
    assert effective_samples(np.zeros(2000, np.int64)) == 1.0
    assert effective_samples(np.arange(1000) % 10) == pytest.approx(10.0)
    uneven = np.r_[np.zeros(900, np.int64), np.arange(900, 1000)]
    assert effective_samples(uneven) == pytest.approx(1000**2 / (900**2 + 100))


@pytest.fixture
def repeated(shapes):
    """Builds a set of the first ``count`` images, each ``times`` over, in turn."""

    def made(count: int, times: int) -> ArrayDataset:
        return shapes.subset(list(range(count)) * times)

    return made


def test_repeated_images_do_not_tighten_the_bound(engines, repeated, shapes) -> None:
    limits = Limits(max_drop=1.0)
    options = {"baseline": engines["fp32"], "limits": limits}
    once = validate(engines["int8"], shapes.subset(range(100)), PLAIN, **options)
    found = validate(engines["int8"], repeated(100, 12), PLAIN, **options)
    assert once.verdict.outcome == found.verdict.outcome == "inconclusive"
    assert found.comparison.samples == 1200
    assert (found.comparison.distinct, found.comparison.effective) == (100, 100.0)
    assert found.comparison.drop_upper_pp == pytest.approx(once.comparison.drop_upper_pp)
    assert found.comparison.p_value == once.comparison.p_value
    assert "only 100 of the 1200 images are different" in found.verdict.reason
    assert found.to_dict()["distinct_images"] == 100
    whole = validate(engines["int8"], shapes, PLAIN, **options)
    assert whole.verdict.outcome == "pass"
    assert whole.comparison.distinct == 1200


def test_a_baseline_from_a_file_knows_them_too(engines, repeated, tmp_path) -> None:
    found = validate(engines["fp32"], repeated(10, 100), PLAIN, baseline=engines["fp32"])
    assert found.verdict.outcome == "inconclusive"
    found.baseline.save(tmp_path / "baseline.npz")
    again = load_predictions(tmp_path / "baseline.npz")
    assert again.digest == found.baseline.digest
    bare = dataclasses.replace(found.predictions, sketches=None)
    assert compare(again, bare).distinct == 10


def test_the_bound_covers_when_copies_answer_alike() -> None:
    """The true drop is 1 point; every image is there four times and answers alike."""
    rng = np.random.default_rng(4)
    covered = 0
    for _ in range(300):
        lost = np.repeat(rng.random(1000) < 0.02, 4)
        gained = np.repeat(rng.random(1000) < 0.01, 4) & ~lost
        upper = drop_upper(int(lost.sum()), int(gained.sum()), 4000, effective=1000.0)
        covered += upper >= 0.0098
    assert covered >= 0.92 * 300


def test_a_few_doubles_are_not_worth_a_word(answer) -> None:
    sketches = np.random.default_rng(5).integers(-9999, 9999, (1000, 16)).astype(np.int16)
    sketches[1::400] = sketches[::400][: len(sketches[1::400])]
    good = dataclasses.replace(answer(range(3), noise=0.0), sketches=sketches)
    found = compare(good, good)
    assert found.effective > 990
    assert "different" not in accuracy_check(found, 0.5).reason
