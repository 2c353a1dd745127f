"""What a bundle's manifest says of its outputs is held against what the engine gives."""

from __future__ import annotations

from typing import Any

import pytest

from edgeres.bundling.reading import reader
from edgeres.errors import ArtefactError
from edgeres.graph.summary import TensorSpec
from edgeres.tasks.outputs import OutputsTask

SCORES = TensorSpec("scores", (None, 10), "float32")
MAP = TensorSpec("map", (None, 3, 28, 28), "float32")


@pytest.mark.parametrize(
    ("said", "outputs", "reason"),
    [
        ([{"name": "magic"}], [SCORES], "no task 'magic'"),
        ([{"name": "regression", "output": "no"}], [SCORES], "no output 'no'"),
        ([{"name": "regression", "output": 3}], [SCORES], "no output 3"),
        ([{"name": "segmentation"}], [SCORES], "expected scores"),
        ([{"name": "regression", "colour": "red"}], [SCORES], "unknown key `colour`"),
        ([{"name": "regression"}], [SCORES, MAP], "expected one output"),
        ([{"name": "regression", "output": "map"}] * 2, [SCORES, MAP], "two heads read one"),
    ],
)
def test_a_task_that_is_not_the_engines_is_a_bad_bundle(
    said: list[dict[str, Any]], outputs: list[TensorSpec], reason: str
) -> None:
    with pytest.raises(ArtefactError, match=f"does not fit its engine: .*{reason}") as caught:
        reader(said, outputs)
    assert caught.value.hint


def test_code_is_never_run_for_a_bundle() -> None:
    said = [{"name": "custom", "function": "/nothing/evil.py:f"}]
    assert isinstance(reader(said, [SCORES]), OutputsTask)


def test_a_task_that_fits_is_taken() -> None:
    task = reader([{"name": "segmentation", "output": "map"}], [SCORES, MAP])
    assert task.reads([SCORES, MAP]) == ("map",)
