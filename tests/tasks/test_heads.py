"""Heads, each with its own output and target, and the user's own metric."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeres.errors import DataError, ModelError, UsageError
from edgeres.graph.summary import TensorSpec
from edgeres.tasks import open_task, open_tasks, task_names

A, B = TensorSpec("a", (None, 3), "float32"), TensorSpec("b", (None, 1), "float32")
TWO = [{"name": "classification", "output": "a"}, {"name": "regression", "output": "b"}]


def batch() -> dict[str, np.ndarray]:
    scores = np.array([[0, 9, 1], [7, 1, 2]], np.float32)
    return {"a": scores, "b": np.array([[2.5], [1.0]], np.float32)}


def test_tasks_are_found_by_their_files() -> None:
    names = {"classification", "outputs", "custom", "regression", "segmentation", "embedding"}
    assert names <= set(task_names())
    assert "heads" not in task_names()
    with pytest.raises(UsageError, match="no task 'regresion'") as caught:
        open_task("regresion")
    assert "regression" in caught.value.hint


def test_each_head_reads_its_output_and_its_target() -> None:
    task = open_tasks(TWO)
    assert task.reads([A, B]) == ("a", "b")
    targets = {"a": np.array([1, 2]), "b": np.array([2.0, 1.0])}
    rows = task.rows(batch(), targets)
    by_name = {metric.name: metric for metric in task.metrics}
    assert task.gated == ("a.top1", "b.mae")
    scores = {name: m.scores(rows) for name, m in by_name.items() if m.scores is not None}
    assert scores["a.top1"].tolist() == [1.0, 0.0]
    assert scores["b.mae"].tolist() == [0.5, 0.0]
    assert task.text(batch() | {"a": batch()["a"][:1], "b": batch()["b"][:1]}, ()).startswith("a: ")


def test_a_target_may_have_another_name() -> None:
    task = open_tasks([{"name": "classification", "output": "a", "target": "kind"}])
    rows = task.rows({"a": batch()["a"]}, {"kind": np.array([1, 0]), "other": np.array([0, 0])})
    assert task.metrics[0].scores(rows).tolist() == [1.0, 1.0]


def test_the_only_target_has_no_name_and_is_the_one_that_is_asked_for() -> None:
    only = {"": np.array([1, 0])}
    for said in ({"target": "kind"}, {}):
        task = open_tasks([{"name": "classification", "output": "a", **said}])
        assert task.metrics[0].scores(task.rows({"a": batch()["a"]}, only)).tolist() == [1.0, 1.0]
    both = [{"name": "classification", "output": "a", "target": "kind"}]
    both += [{"name": "embedding", "output": "b", "target": "kind"}]
    rows = open_tasks(both).rows(batch(), only)
    assert rows["a.label"].tolist() == rows["b.label"].tolist() == [1, 0]
    with pytest.raises(DataError, match="no target 'a' for the classification head"):
        open_tasks(TWO).rows(batch(), only)  # whose is it?


def test_what_does_not_fit_is_told() -> None:
    with pytest.raises(ModelError, match="no output 'a' for the classification head; there are b"):
        open_tasks(TWO).reads([B])
    with pytest.raises(DataError, match="no target 'b' for the regression head"):
        open_tasks(TWO).rows(batch(), {"a": np.array([1, 2])})
    with pytest.raises(UsageError, match="which output is the regression head's"):
        open_tasks([TWO[0], {"name": "regression"}])
    with pytest.raises(UsageError, match="two heads read one output"):
        open_tasks([TWO[0], TWO[0]])


def custom(folder: Path, code: str) -> dict[str, str]:
    (folder / "m.py").write_text(code)
    return {"function": f"{folder / 'm.py'}:f"}


def test_the_users_own_metric(tmp_path) -> None:
    task = open_task("custom", custom(tmp_path, "def f(o, t):\n    return o['b'][:, 0] - t['']\n"))
    rows = task.rows(batch(), {"": np.array([2.0, 2.0])})
    (metric,) = task.metrics
    assert metric.name == "f"
    assert metric.scores(rows).tolist() == [0.5, -1.0]


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("def f(o, t):\n    return 1.0\n", "one score for each of 2 samples"),
        ("def f(o, t):\n    return [[1.0, 2.0]] * 2\n", r"shape \(2, 2\)"),
        ("def f(o, t):\n    return [float('nan')] * 2\n", "2 of 2 scores are NaN"),
        ("def f(o, t):\n    raise KeyError('age')\n", "KeyError: 'age'"),
        ("def f(o, t):\n    return 'x'\n", "ValueError"),
        ("import sys\ndef f(o, t):\n    sys.exit(0)\n", "SystemExit: 0"),
        (
            "class E(Exception):\n    def __str__(self): raise ValueError\n"
            "def f(o, t):\n    raise E\n",
            "m.py:f: E: E",
        ),
    ],
)
def test_a_metric_that_is_wrong_is_one_line(tmp_path, code: str, problem: str) -> None:
    with pytest.raises(DataError, match=problem) as caught:
        open_task("custom", custom(tmp_path, code)).rows(batch(), {})
    assert "\n" not in caught.value.message


def test_what_a_metric_does_to_its_arrays_stays_there(tmp_path) -> None:
    code = "def f(o, t):\n    o['b'][:] = 0\n    t[''] *= 0\n    o.clear()\n    return t['']\n"
    outputs, targets = batch(), {"": np.array([2.0, 2.0])}
    before = {name: values.copy() for name, values in outputs.items()}
    open_task("custom", custom(tmp_path, code)).rows(outputs, targets)
    assert outputs.keys() == before.keys()
    assert all(np.array_equal(outputs[name], before[name]) for name in before)
    assert targets[""].tolist() == [2.0, 2.0]


def test_code_that_is_not_there_or_does_not_run(tmp_path) -> None:
    with pytest.raises(UsageError, match=r"FILE\.py:FUNCTION"):
        open_task("custom", {"function": "none.py:f"})
    with pytest.raises(UsageError, match="has no function 'f'"):
        open_task("custom", custom(tmp_path, "g = 1\n"))
    with pytest.raises(UsageError, match="cannot be imported: SyntaxError"):
        open_task("custom", custom(tmp_path, "def f(:\n"))
