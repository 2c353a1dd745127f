"""What the outputs of a run's engines mean, and code of other people's that is not run for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgeres.errors import UsageError
from edgeres.evaluation import run_folder
from edgeres.evaluation.run_task import agreed_said, run_task, write_task
from edgeres.tasks.custom import CustomTask

CODE = "open(__file__ + '.ran', 'w').close()\ndef score(outputs, targets):\n    return [1.0]\n"


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    """An engine in the folder of a run whose task is code that leaves a trace when imported."""
    (tmp_path / run_folder.BASELINE).mkdir()
    (tmp_path / "evil.py").write_text(CODE)
    (tmp_path / "onnxruntime").mkdir()
    said(tmp_path, {"name": "custom", "function": f"{tmp_path}/evil.py:score", "unit": "mm"})
    return tmp_path / "onnxruntime" / "model.onnx"


def said(run: Path, *blocks: dict[str, Any]) -> None:
    write_task(run / run_folder.BASELINE, blocks)


def test_code_that_a_run_names_is_not_run(engine: Path) -> None:
    run = engine.parent.parent
    for baseline in (None, run / run_folder.BASELINE / "predictions.npz"):
        for call in (run_task, agreed_said):
            with pytest.raises(UsageError, match=r"judged by code, .*evil\.py:score") as caught:
                call(engine, baseline)
            assert "--task custom:" in caught.value.hint
    said(run, {"name": "regression", "output": "a"},
         {"name": "custom", "output": "b", "function": f"{run}/evil.py:score"})  # fmt: skip
    with pytest.raises(UsageError, match="judged by code"):
        agreed_said(engine)
    assert not (run / "evil.py.ran").exists()


def test_who_names_it_has_the_rest_that_the_run_says(engine: Path, tmp_path: Path) -> None:
    (found,) = agreed_said(engine, None, f"custom:{tmp_path}/evil.py:score")
    assert found["unit"] == "mm"
    (other,) = agreed_said(engine, None, f"custom:{tmp_path}/mine.py:score")
    assert other == {"name": "custom", "function": f"{tmp_path}/mine.py:score"}
    assert agreed_said(engine, None, "outputs") == [{"name": "outputs"}]


def test_other_tasks_are_those_of_the_run(engine: Path) -> None:
    said(engine.parent.parent, {"name": "regression", "unit": "years"})
    assert agreed_said(engine) == [{"name": "regression", "unit": "years"}]
    task = run_task(engine)
    assert task is not None
    assert not isinstance(task, CustomTask)
