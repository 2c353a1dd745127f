"""The schema that editors use: what `convert` takes is no error there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ruamel.yaml import YAML

from edgeres.recipe.recipe import Recipe, json_schema

ROOT = Path(__file__).parents[2]
LEAST = {"model": {"source": "net.onnx"}, "targets": ["onnxruntime"]}


def _documented() -> list[Any]:
    """The recipes of the pages, whole or in part."""
    found = []
    for page in sorted(ROOT.joinpath("docs").glob("*.md")):
        for number, text in enumerate(re.findall(r"```yaml\n(.*?)```", page.read_text(), re.S)):
            block = YAML(typ="safe").load(text)
            if isinstance(block, dict) and {"training", "backends", "devices"}.isdisjoint(block):
                found.append(pytest.param(block, id=f"{page.stem} {number}"))
    return found


@pytest.mark.parametrize("block", _documented())
def test_what_the_pages_show_is_a_recipe_for_both(block):
    document = {**LEAST, **block}
    Recipe.model_validate(document)
    jsonschema.validate(document, json_schema())


@pytest.mark.parametrize(
    "said",
    [
        {"prune": "auto"},
        {"prune": None},
        {"prune": {"only_if_faster": True}},
        {"task": {"name": "regression"}},
        {"task": [{"name": "regression"}]},
        {"task": "regression"},
        {"task": ["regression", "binary"]},
        {"task": None},
    ],
    ids=str,
)
def test_short_forms_are_no_errors_in_an_editor(said):
    Recipe.model_validate({**LEAST, **said})
    jsonschema.validate({**LEAST, **said}, json_schema())


@pytest.mark.parametrize("said", [{"prune": "always"}, {"task": 5}], ids=str)
def test_other_words_are_errors_in_both(said):
    with pytest.raises(ValueError, match=next(iter(said))):
        Recipe.model_validate({**LEAST, **said})
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**LEAST, **said}, json_schema())
