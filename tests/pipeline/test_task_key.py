"""Stored answers belong to the task that they were kept for, and to the user's own code."""

from __future__ import annotations

import dataclasses

from edgeres.evaluation.run_task import task_of
from edgeres.pipeline.convert import stage_store
from edgeres.pipeline.find_source import find_source
from edgeres.pipeline.inputs import open_inputs
from edgeres.pipeline.run import Run
from edgeres.pipeline.tasks import said_of, task_key
from edgeres.system.environment import describe_environment

from .conftest import Notes


def test_another_task_or_other_code_is_another_key(recipe, tmp_path) -> None:
    code = tmp_path / "m.py"

    def key(task: object, text: str = "def f(o, t):\n    return t['']\n") -> dict[str, object]:
        code.write_text(text)
        asked = recipe.override({"task": task})
        inputs = open_inputs(recipe)
        run = Run(
            asked, stage_store(tmp_path / "out"), Notes(), describe_environment(),
            inputs.calibration, task=None if asked.is_classifier else task_of(said_of(asked)),
        )  # fmt: skip
        return task_key(run)

    own = {"name": "custom", "function": f"{code}:f"}
    keys = [
        key([]),
        key([{"name": "outputs"}]),
        key([{"name": "regression"}]),
        key([{"name": "regression", "unit": "m"}]),
        key([own]),
        key([own], "def f(o, t):\n    return -t['']\n"),
    ]
    assert keys[0] == {}
    assert all(a != b for i, a in enumerate(keys) for b in keys[:i])


def test_what_is_kept_of_a_network_is_in_its_settings(recipe) -> None:
    source = find_source(recipe.model)
    others = [
        dataclasses.replace(source, outputs=("a",)),
        dataclasses.replace(source, classes=False),
    ]
    assert all(other.settings() != source.settings() for other in others)
