"""Equal images under unlike labels: counted, named, and no way to a clean pass."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from edgeres.data.arrays import ArrayDataset
from edgeres.data.preprocess import Preprocess
from edgeres.errors import DataError
from edgeres.evaluation.baseline import check_baseline
from edgeres.evaluation.compare import compare
from edgeres.evaluation.distinct import contradicted_samples
from edgeres.evaluation.gates import accuracy_check
from edgeres.evaluation.validate import validate

PLAIN = Preprocess(scale=1 / 255, channels=1)


def _twice(shapes: ArrayDataset, count: int, copies: int) -> ArrayDataset:
    """The first ``count`` images, and ``copies`` of them again under the next label."""
    labels = shapes.labels[:count]
    others = (labels[:copies] + 1) % len(shapes.class_names)
    subset = shapes.subset([*range(count), *range(copies)])
    return dataclasses.replace(subset, labels=np.concatenate([labels, others]))


def test_samples_whose_image_has_two_labels() -> None:
    groups, labels = np.array([0, 0, 2, 2, 4]), np.array([1, 2, 3, 3, 0])
    assert contradicted_samples(groups, labels).tolist() == [True, True, False, False, False]


def test_they_are_counted_and_two_of_them_named(engines, shapes) -> None:
    data = _twice(shapes, 600, 60)
    found = validate(engines["fp32"], data, PLAIN, baseline=engines["fp32"])
    assert found.comparison.contradicted == 120
    assert "60 images are there under two or more labels (120 of 660 samples)" in (
        found.contradictions
    )
    first, other = data.image_name(0), data.image_name(600)
    assert f"{first} (label " in found.contradictions
    assert f"{other} (label " in found.contradictions
    assert found.to_dict()["contradicted_samples"] == 120
    assert "120 samples (18.2 %) show images under two or more labels" in found.verdict.reason


def test_one_label_each_says_nothing(engines, shapes) -> None:
    found = validate(
        engines["fp32"], shapes.subset([*range(100)] * 2), PLAIN, baseline=engines["fp32"]
    )
    assert not found.contradictions
    assert found.comparison.contradicted == 0
    assert "two or more labels" not in found.verdict.reason


def test_what_one_copy_wins_for_another_is_no_pass(answer, labels) -> None:
    """Half the images of a class are answered otherwise; their other label makes it no drop."""
    sketches = np.random.default_rng(5).integers(-9999, 9999, (1000, 16)).astype(np.int16)
    one, two = np.flatnonzero(labels == 0), np.flatnonzero(labels == 1)
    sketches[two] = sketches[one]
    right = answer()
    logits = right.logits.copy()
    logits[two] = logits[one]  # equal images, equal answers
    baseline = dataclasses.replace(right, logits=logits, sketches=sketches)
    wrong = logits.copy()
    half = [*one[:50], *two[:50]]
    wrong[np.ix_(half, [0, 1])] = wrong[np.ix_(half, [1, 0])]
    found = compare(baseline, dataclasses.replace(baseline, logits=wrong))
    assert found.drop_pp == 0.0
    assert found.flips.lost == found.flips.gained == 50
    check = accuracy_check(found, 5.0)
    assert check.outcome == "inconclusive"
    assert found.drop_upper_pp > 10 > -10 > found.drop_lower_pp
    assert "One label for each image would tell more." in check.reason
    assert check.samples_to_decide is None


def test_a_baseline_at_chance_because_of_them_is_told_so(answer, labels) -> None:
    images = np.random.default_rng(6).integers(-9999, 9999, (100, 16)).astype(np.int16)
    good = answer()
    baseline = dataclasses.replace(
        good,
        logits=good.logits[np.arange(1000) // 10 % 10],
        sketches=images[np.arange(1000) // 10],
    )
    with pytest.raises(DataError) as caught:
        check_baseline(baseline)
    assert "1000 of the samples show an image that is also there under another label" in (
        caught.value.hint
    )
