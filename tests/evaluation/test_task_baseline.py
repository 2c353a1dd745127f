"""A float network that knows nothing, and sets that cannot tell a metric, in every task."""

from __future__ import annotations

import numpy as np
import pytest

from edgeres.errors import DataError, UsageError
from edgeres.evaluation.judge import judge
from edgeres.evaluation.task_baseline import check_answers, metrics_of
from edgeres.recipe.gates import Limits
from edgeres.tasks import open_task, open_tasks
from edgeres.tasks.answers import Answers

N = 600
LABELS = np.arange(N) % 3
YES = (LABELS == 0).astype(np.int64)
MASKS = np.where(np.arange(64).reshape(8, 8) < 40, 1, 0)[None] + np.zeros((N, 1, 1), np.int64)
TARGETS = {
    "binary": YES,
    "regression": np.random.default_rng(3).normal(40, 12, N),
    "multilabel": np.eye(3, dtype=np.int64)[LABELS],
    "embedding": LABELS,
    "segmentation": MASKS,
    "classification": LABELS,
}


def outputs(name: str, *, knows: bool) -> np.ndarray:
    """Answers of a network that looks at its samples, or of one that does not."""
    rng = np.random.default_rng(5)
    seen = TARGETS[name] if knows else rng.permutation(TARGETS[name])
    if name == "segmentation":
        maps = seen if knows else rng.permuted(seen, axis=2).transpose(0, 2, 1)
        return np.eye(2)[maps].transpose(0, 3, 1, 2) + 0.1 * rng.normal(size=(N, 2, 8, 8))
    if name in ("binary", "regression"):
        spread = 3 if name == "regression" else 0.4
        return (seen + spread * rng.normal(size=N))[:, None]
    right = seen if name == "multilabel" else np.eye(3)[seen]
    return right + 0.3 * rng.normal(size=(N, 3))


def answers(task, name: str, values: np.ndarray, target: np.ndarray, output: str = "y") -> Answers:
    rows = task.rows({output: values}, {"": target, output: target})
    return Answers({**rows, f"output:{output}": values.reshape(len(values), -1)}, name="net.onnx")


@pytest.mark.parametrize("name", TARGETS)
def test_a_network_that_knows_nothing_is_stopped(name: str) -> None:
    task = open_task(name)
    good = answers(task, name, outputs(name, knows=True), TARGETS[name])
    assert check_answers(task, good, Limits()) == ()
    blind = answers(task, name, outputs(name, knows=False), TARGETS[name])
    with pytest.raises(DataError, match="one answer for everything reaches") as caught:
        check_answers(task, blind, Limits())
    assert "Check the preprocessing" in caught.value.hint
    assert "net.onnx" in caught.value.message
    assert check_answers(task, blind, Limits(), untrained=True) == ()


def test_the_head_that_knows_nothing_is_named() -> None:
    task = open_tasks(
        [
            {"name": "classification", "output": "a"},
            {"name": "regression", "output": "b", "unit": "years"},
        ]
    )
    values = {
        "a": outputs("classification", knows=True),
        "b": outputs("regression", knows=False),
    }
    rows = task.rows(values, {"a": TARGETS["classification"], "b": TARGETS["regression"]})
    both = Answers({**rows, **{f"output:{name}": value for name, value in values.items()}})
    with pytest.raises(DataError, match=r"mean absolute error of 'b' is .* years"):
        check_answers(task, both, Limits())


def test_yes_and_no_that_are_exchanged_are_told() -> None:
    task = open_task("binary", {"form": "logit"})
    turned = answers(task, "binary", -outputs("binary", knows=True), YES)
    with pytest.raises(DataError, match="area under ROC") as caught:
        check_answers(task, turned, Limits())
    assert "exchanged" in caught.value.hint


def test_a_set_of_one_class_has_no_auc_and_is_judged_by_the_rest() -> None:
    task = open_task("binary")
    values = outputs("binary", knows=True)[YES == 1]
    only = answers(task, "binary", values, YES[YES == 1])
    (note,) = check_answers(task, only, Limits())
    assert note.startswith("area under ROC is left out")
    found = judge(task, only, only, Limits(max_drop=3))
    assert list(found.metrics) == ["accuracy"]
    assert found.checks[0].outcome == "pass"
    assert found.notes == (note,)
    with pytest.raises(DataError, match="lack what it needs"):
        judge(task, only, only, Limits(metric=["auc"]))


def test_a_class_too_rare_for_resampled_sets_leaves_that_metric_out() -> None:
    task = open_task("binary")
    target = YES.copy()
    target[np.flatnonzero(YES)[1:]] = 0
    found = judge(
        task, *[answers(task, "binary", outputs("binary", knows=True), target)] * 2, Limits()
    )
    assert list(found.metrics) == ["accuracy"]
    assert "sets drawn from" in found.notes[0]


def test_an_image_that_is_there_twice_is_not_its_own_neighbour() -> None:
    rng = np.random.default_rng(0)
    task = open_task("embedding", {"false_accepts": 0.01})
    vectors = np.repeat(rng.normal(size=(N // 2, 16)), 2, axis=0)  # each twice, labels mean nothing
    labels = np.repeat(rng.integers(0, 20, N // 2), 2)
    base = answers(task, "embedding", vectors, labels)
    sketches = np.repeat(rng.integers(-900, 900, (N // 2, 16)), 2, axis=0).astype(np.int16)
    again = Answers(base.rows, sketches=sketches)
    naive = judge(task, base, base, Limits()).metrics
    found = judge(task, again, again, Limits()).metrics
    assert naive["recall1"].fp32 == 100
    assert found["recall1"].fp32 < 15
    assert found["tar"].fp32 < naive["tar"].fp32 / 2


def test_a_gate_on_no_metric_is_refused() -> None:
    task = open_task("binary")
    good = answers(task, "binary", outputs("binary", knows=True), YES)
    with pytest.raises(UsageError, match="no metric 'mae'"):
        check_answers(task, good, Limits(metric=["mae"]))
    with pytest.raises(UsageError, match="no metric 'mae'"):
        check_answers(task, good, Limits(max_drop={"mae": 1.0}))


def test_how_near_an_output_is_has_no_loss() -> None:
    task = open_task("embedding")
    good = answers(task, "embedding", outputs("embedding", knows=True), LABELS)
    with pytest.raises(UsageError, match="direction_db is how near an output is"):
        check_answers(task, good, Limits(max_drop={"direction_db": 30}))
    for gates in (
        Limits(max_drop=30, metric=["direction_db"]),
        Limits(max_drop=-1, metric=["direction_db"]),
    ):
        with pytest.raises(UsageError, match="direction_db says how near an output is"):
            check_answers(task, good, gates)
    check_answers(task, good, Limits(max_drop=30, metric=["direction_db", "tar"]))
    outputs_alone = open_task("outputs").for_outputs(["a"])
    with pytest.raises(UsageError, match="sqnr_db says how near"):
        metrics_of(outputs_alone, Limits(max_drop=3))


def test_each_head_has_its_own_budget() -> None:
    said = [{"name": "classification", "output": "a"}, {"name": "regression", "output": "b"}]
    task = open_tasks(said)
    values = {"a": outputs("classification", knows=True), "b": outputs("regression", knows=True)}
    rng = np.random.default_rng(1)
    worse = {"a": values["a"], "b": values["b"] + rng.normal(0, 2, (N, 1))}
    targets = {"a": TARGETS["classification"], "b": TARGETS["regression"]}
    both = [
        Answers({**task.rows(v, targets), **{f"output:{name}": value for name, value in v.items()}})
        for v in (values, worse)
    ]

    def outcomes(**limits: object) -> dict[str, str]:
        return {c.name: c.outcome for c in judge(task, *both, Limits(**limits)).checks}

    tight = {"a.top1": 3.0, "b.mae": 0.01}
    assert outcomes(max_drop=tight) == {"a.top1": "pass", "b.mae": "fail"}
    assert outcomes(max_drop={**tight, "b.mae": 9.0}) == {"a.top1": "pass", "b.mae": "pass"}
    assert outcomes(max_drop={"a.top1": 3.0}) == {"a.top1": "pass"}  # it alone is gated
    assert outcomes(max_drop=tight, metric=["b.mae"]) == {"b.mae": "fail"}
