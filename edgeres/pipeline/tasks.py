"""The task of a run: what a recipe says of it, and what stages must know of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeres.pipeline.run import Run
from edgeres.recipe.recipe import Recipe
from edgeres.system.files import file_sha256


def said_of(recipe: Recipe) -> list[dict[str, Any]]:
    """What a recipe says of each head, without what it leaves out."""
    said = [block.model_dump(mode="json", exclude_none=True) for block in recipe.task]
    for block in said:
        if isinstance(block.get("function"), str):  # whoever reads it later stands elsewhere
            file, _, name = block["function"].rpartition(":")
            block["function"] = f"{Path(file).expanduser().resolve()}:{name}"
    return said


def task_key(run: Run) -> dict[str, object]:
    """What the key of a stage holds that keeps what the task judges."""
    if run.task is None:
        return {}
    said = said_of(run.recipe)
    code = [str(block.get("function", "")).rpartition(":")[0] for block in said]
    return {"task": said, "task_code": [file_sha256(Path(file)) for file in code if file]}
