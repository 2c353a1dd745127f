"""Figures of the tasks equal scikit-learn's.

The numbers are those of scikit-learn 1.9.1: roc_auc_score, accuracy_score, average_precision_score,
f1_score, jaccard_score, roc_curve and NearestNeighbors on the same arrays.
"""

from __future__ import annotations

import numpy as np
import pytest

from edgeres.tasks import open_task
from edgeres.tasks.pairs import cosines, pairs_of, true_accepts

MULTILABEL = {"map": 0.4770265255628206, "f1": 0.4}
UNKNOWN = {"map": 0.4560340496486924, "f1": 0.3971830985915493}
COUNTED = {"map": 0.4738635198300624, "f1": 0.4139650872817955}
EMBEDDING = {"tar": 0.12408759124087591, "recall1": 0.32666666666666666}
SEGMENTATION = {"miou": 0.7188399979611082, "pixels": 0.8371647509578544}


def figures(task, rows, counts=None):
    count = len(next(iter(rows.values())))
    counts = np.ones(count, np.int64) if counts is None else counts
    found = {}
    for metric in task.metrics:
        if metric.value is not None:
            found[metric.name] = metric.value(rows)(counts)
        elif metric.scores is not None:
            found[metric.name] = float(counts @ metric.scores(rows) / counts.sum())
    return found


def test_binary() -> None:
    rng = np.random.default_rng(7)
    labels = rng.integers(0, 2, 300)
    scores = np.round(rng.normal(labels * 0.8, 1, 300), 1)
    task = open_task("binary")
    rows = task.rows({"y": scores}, {"": labels})
    assert figures(task, rows) == pytest.approx({"accuracy": 0.65, "auc": 0.7120067920818625})
    counts = rng.integers(0, 3, 300)
    assert figures(task, rows, counts)["auc"] == pytest.approx(0.7048256091734352)
    chance = 1 / (1 + np.exp(-scores))
    for values in (chance, np.c_[-scores, np.zeros(300)], np.c_[1 - chance, chance]):
        same = figures(task, task.rows({"y": values}, {"": labels.astype(float)}))
        assert same == pytest.approx({"accuracy": 0.65, "auc": 0.7120067920818625})


def test_multilabel() -> None:
    rng = np.random.default_rng(11)
    labels = (rng.random((200, 6)) < [0.5, 0.3, 0.1, 0.05, 0.02, 0.0]).astype(np.int64)
    scores = np.round(rng.normal(labels * 1.2, 1), 1)
    task = open_task("multilabel")
    assert figures(task, task.rows({"y": scores}, {"": labels})) == pytest.approx(MULTILABEL)
    unknown = np.where(rng.random((200, 6)) < 0.2, -1, labels)
    assert figures(task, task.rows({"y": scores}, {"": unknown})) == pytest.approx(UNKNOWN)
    counts = rng.integers(0, 3, 200)
    rows = task.rows({"y": 1 / (1 + np.exp(-scores))}, {"": labels})
    assert figures(task, rows, counts) == pytest.approx(COUNTED)


def test_embedding() -> None:
    rng = np.random.default_rng(12)
    labels = rng.integers(0, 20, 150)
    vectors = rng.normal(size=(20, 8))[labels] + rng.normal(size=(150, 8))
    task = open_task("embedding", {"false_accepts": 0.01})
    rows = task.rows({"y": vectors}, {"": labels})
    assert figures(task, rows) == pytest.approx(EMBEDDING)


def test_a_choice_of_pairs_is_near_all_of_them_and_the_same_for_two_models() -> None:
    rng = np.random.default_rng(13)
    labels = rng.integers(0, 10, 900)
    vectors = rng.normal(size=(10, 16))[labels] + rng.normal(size=(900, 16))
    units = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    every, some = pairs_of(labels, 10**6), pairs_of(labels, 20_000)
    assert (some.same == (labels[some.one] == labels[some.two])).all()
    assert (some.one != some.two).all()
    assert 0.4 < some.same.mean() < 0.6
    again = pairs_of(labels, 20_000)
    assert (again.one == some.one).all()
    enumerated = pairs_of(labels, 41_000)
    assert enumerated.same.sum() == every.same.sum() < 41_000
    different = np.c_[enumerated.one, enumerated.two][enumerated.same]
    assert len(np.unique(different, axis=0)) == every.same.sum()
    ones = np.ones(900, np.int64)
    whole = true_accepts(cosines(units, every), every, 0.01)(ones)
    for pairs in (some, enumerated):
        assert true_accepts(cosines(units, pairs), pairs, 0.01)(ones) == pytest.approx(
            whole, abs=0.02
        )


def test_segmentation() -> None:
    rng = np.random.default_rng(14)
    masks = rng.integers(0, 4, (5, 12, 9))
    scores = rng.normal(size=(5, 4, 12, 9)).astype(np.float32)
    for k in range(4):
        scores[:, k] += 2 * (masks == k)
    masks[0, :2] = 255
    task = open_task("segmentation")
    assert figures(task, task.rows({"y": scores}, {"": masks})) == pytest.approx(SEGMENTATION)


@pytest.mark.parametrize(
    ("before", "after"), [((7, 5), (12, 9)), ((12, 9), (7, 5)), ((1, 4), (3, 8))]
)
def test_maps_are_resized_as_torch_does(before, after) -> None:
    torch = pytest.importorskip("torch")
    from edgeres.tasks.segmentation import resized

    scores = np.random.default_rng(0).normal(size=(3, *before)).astype(np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(scores)[None], after, mode="bilinear", align_corners=False
    )[0].numpy()
    np.testing.assert_allclose(resized(scores, after), expected, atol=1e-5)
