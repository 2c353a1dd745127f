"""What each task keeps, asks for and says; bad settings and targets are one line."""

from __future__ import annotations

import numpy as np
import pytest

from edgeres.errors import DataError, ModelError, UsageError
from edgeres.graph.summary import TensorSpec
from edgeres.tasks import open_task
from edgeres.tasks.decision import metric_check
from edgeres.tasks.difference import difference

AGES = {"unit": "years", "tolerance": 5.0}


def scores(task, name, rows):
    return next(m for m in task.metrics if m.name == name).scores(rows)


def test_regression_errors_are_in_the_targets_unit() -> None:
    task = open_task("regression", AGES)
    outputs = {"age": np.array([[30.0], [41.0], [50.0]])}
    rows = task.rows(outputs, {"": np.array([33, 41, 60])})
    assert scores(task, "mae", rows).tolist() == [3.0, 0.0, 10.0]
    assert scores(task, "within", rows).tolist() == [1.0, 1.0, 0.0]
    assert task.metrics[0].unit == "years"
    assert task.metrics[0].max_drop == 0.5
    assert task.metrics[1].title == "share within 5 years"
    assert task.text({"age": np.array([[30.25]])}, ()) == "30.25 years"
    assert len(open_task("regression").metrics) == 1


def test_expected_value_reads_scores_and_probabilities_alike() -> None:
    logits = np.random.default_rng(0).normal(0, 3, (20, 101))
    powers = np.exp(logits)
    shares = powers / powers.sum(axis=1, keepdims=True)
    expected = shares @ np.arange(101)
    for bins in ([0, 100], list(range(101))):
        task = open_task("regression", {"expected_value": bins})
        assert task.metrics[0].max_drop == 1.0
        for values in (logits, shares, (shares * 0.97).astype(np.float32)):
            rows = task.rows({"age": values}, {"": np.zeros(20)})
            np.testing.assert_allclose(scores(task, "mae", rows), expected, rtol=1e-5)


def test_segmentation_keeps_no_map_and_resizes_scores_to_the_mask() -> None:
    small = np.zeros((1, 3, 2, 2), np.float32)
    small[0, 1, 0], small[0, 2, 1] = 1, 1  # upper half class 1, lower half class 2
    mask = np.repeat([1, 1, 2, 2], 4).reshape(1, 4, 4)
    task = open_task("segmentation")
    rows = task.rows({"y": small}, {"": mask[:, None]})
    assert {name: row.tolist() for name, row in rows.items()} == {
        "hit": [[0, 8, 8]],
        "said": [[0, 8, 8]],
        "right": [[0, 8, 8]],
    }
    assert task.text({"y": small}, ("sky", "sea", "land")) == "sea 50.0 %, land 50.0 %"


def test_a_map_that_is_no_number_is_broken() -> None:
    maps = np.random.default_rng(0).normal(size=(40, 2, 4, 4)).astype(np.float32)
    mask = maps.argmax(axis=1)
    task = open_task("segmentation")
    good = task.rows({"y": maps}, {"": mask})
    bad = maps.copy()
    bad[3, 0, 1, 1] = np.inf
    d = difference(task.metrics[0], good, task.rows({"y": bad}, {"": mask}), resamples=50)
    assert d.broken == 1
    assert metric_check(task.metrics[0], d).outcome == "fail"


def test_embeddings_without_labels_are_judged_by_their_directions() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(500, 64))
    task = open_task("embedding", {"labelled": False})
    assert not task.needs_targets
    (metric,) = task.metrics
    before = task.rows({"y": vectors}, {})
    assert difference(metric, before, task.rows({"y": 3 * vectors}, {})).engine > 100
    d = difference(metric, before, task.rows({"y": vectors + rng.normal(0, 0.1, (500, 64))}, {}))
    assert d.engine == pytest.approx(20.0, abs=0.3)


@pytest.mark.parametrize(
    ("name", "outputs", "names", "text"),
    [
        ("binary", [[0.8]], (), "yes 0.8"),
        ("binary", [[-3.0]], ("cat", "dog"), "cat 0.04743"),
        ("binary", [[0.1, 0.9]], ("cat", "dog"), "dog 0.9"),
        ("multilabel", [[0.9, 0.2, 0.6]], ("a", "b"), "a 0.9, class 2 0.6"),
        ("multilabel", [[-1.0, -2.0]], (), "none"),
        ("embedding", [[1.0, 2.0, 3.0]], (), "[3] 1 2 3"),
    ],
)
def test_what_is_printed_of_one_sample(name, outputs, names, text) -> None:
    assert open_task(name).text({"y": np.array(outputs)}, names) == text


ONE = np.zeros((4, 1))
MAPS = np.zeros((2, 3, 4, 4), np.float32)


@pytest.mark.parametrize(
    ("name", "settings", "output", "target", "told"),
    [
        ("regression", {}, ONE, None, "regression: expected a number for each sample, got none"),
        ("regression", {}, np.zeros((4, 9)), np.zeros(4), r"targets \(4, 9\) as the network"),
        ("regression", {}, ONE, np.array([0, 1, np.nan, 2]), "1 of 4 targets are NaN"),
        ("binary", {}, ONE, np.array([0, 1, 2, 1]), "from 0 to 1, got 0 to 2"),
        ("binary", {}, ONE, np.array([0, 0.5, 1, 1]), "expected whole numbers from 0 to 1"),
        ("binary", {}, ONE, np.zeros((4, 3)), r"got targets \(4, 3\)"),
        ("multilabel", {}, np.zeros((4, 3)), np.zeros(4, int), "the network has 3 classes"),
        ("multilabel", {}, np.zeros((4, 3)), np.full((4, 3), 2), "from -1 to 1, got 2 to 2"),
        ("embedding", {}, np.zeros((4, 3)), np.zeros((4, 2)), r"got \(4, 2\) float64"),
        ("embedding", {}, np.zeros((4, 3)), np.full(4, 0.5), "expected whole numbers as targets"),
        ("classification", {}, np.zeros((4, 3)), np.full(4, 0.5), "whole numbers from 0 to 2"),
        ("classification", {}, np.zeros((4, 3)), np.full(4, 3.0), "from 0 to 2, got 3 to 3"),
        ("segmentation", {}, MAPS, np.zeros((2, 4, 4)), "of class numbers for 2 samples"),
        ("segmentation", {}, MAPS, np.zeros((2, 4), int), r"got \(2, 4\) int64"),
        ("segmentation", {}, MAPS, np.full((2, 4, 4), 3), "has 3 classes, the masks hold 3"),
    ],
)
def test_bad_targets_are_told_in_one_line(name, settings, output, target, told) -> None:
    targets = {} if target is None else {"": target}
    with pytest.raises(DataError, match=told) as caught:
        open_task(name, settings).rows({"y": output}, targets)
    assert "\n" not in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("name", "settings", "told"),
    [
        ("regression", {"tolerance": 0}, "tolerance"),
        ("regression", {"expected_value": [1.0]}, "expected_value"),
        ("regression", {"bins": 3}, "bins"),
        ("binary", {"threshold": 1.0}, "threshold"),
        ("multilabel", {"form": "odds"}, "form"),
        ("embedding", {"false_accepts": 0.0}, "false_accepts"),
        ("segmentation", {"ignored": -2}, "ignored"),
    ],
)
def test_bad_settings_are_told_in_one_line(name, settings, told) -> None:
    with pytest.raises(UsageError, match=told) as caught:
        open_task(name, settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "shapes", "told"),
    [
        ("regression", [(None, 1), (None, 2)], "expected one output with the predicted numbers"),
        ("binary", [], "got 0"),
        ("multilabel", [(None, 1), (None, 2)], "got 2: o0, o1"),
        ("embedding", [(None, 1), (None, 2)], "the embedding"),
        ("segmentation", [(None, 10)], r"the output 'o0' is \[None, 10\]"),
        ("segmentation", [(None, 1, 4, 4)], "two classes or more"),
    ],
)
def test_outputs_that_are_not_what_a_task_judges_are_told(name, shapes, told) -> None:
    specs = [TensorSpec(f"o{i}", shape, "float32") for i, shape in enumerate(shapes)]
    with pytest.raises(ModelError, match=told):
        open_task(name).reads(specs)


def test_outputs_of_another_size_than_the_settings_are_told() -> None:
    bins = open_task("regression", {"expected_value": [0.0, 1.0, 2.0]})
    with pytest.raises(ModelError, match="names 3 bins, the output has 7"):
        bins.reads([TensorSpec("y", (None, 7), "float32")])
    with pytest.raises(ModelError, match="the output has 5"):
        open_task("binary").rows({"y": np.zeros((2, 5))}, {"": np.zeros(2)})


def test_one_class_alone_has_no_area_and_that_is_told() -> None:
    task = open_task("binary")
    rows = task.rows({"y": np.linspace(-1, 1, 50)}, {"": np.zeros(50, int)})
    with pytest.raises(DataError, match="area under ROC: 50 samples lack what it needs"):
        difference(task.metrics[1], rows, rows)


@pytest.mark.parametrize("name", ["regression", "binary", "multilabel", "embedding"])
def test_a_damaged_network_fails_in_every_task_and_an_equal_one_passes(name) -> None:
    rng = np.random.default_rng(3)
    samples, wide = 3000, {"regression": 1, "binary": 1, "multilabel": 5, "embedding": 32}[name]
    if name == "embedding":
        targets = rng.integers(0, 40, samples)
        outputs = rng.normal(size=(40, wide))[targets] * 2 + rng.normal(size=(samples, wide))
    elif name == "regression":
        targets = rng.normal(40, 15, samples)
        outputs = (targets + rng.normal(0, 4, samples))[:, None]
    else:
        targets = rng.integers(0, 2, (samples, wide))
        outputs = rng.normal(2.0 * targets - 1, 1.0)
        targets = targets[:, 0] if name == "binary" else targets
    task = open_task(name, AGES if name == "regression" else None)
    before = task.rows({"y": outputs}, {"": targets})
    near = task.rows({"y": outputs + rng.normal(0, 0.01, outputs.shape)}, {"": targets})
    worse = outputs + rng.normal(0, 6.0, outputs.shape)
    after = task.rows({"y": worse}, {"": targets})
    for metric in task.metrics:
        same, bad = (difference(metric, before, rows, resamples=200) for rows in (near, after))
        assert metric_check(metric, same).outcome == "pass", metric.name
        assert metric_check(metric, bad).outcome == "fail", metric.name


def test_columns_of_whole_numbers_are_classes_too() -> None:
    for name in ("classification", "embedding"):
        rows = open_task(name).rows({"y": np.eye(3)}, {"": np.array([2.0, 0.0, 1.0])})
        assert rows["label"].tolist() == [2, 0, 1]
        assert rows["label"].dtype == np.int64
