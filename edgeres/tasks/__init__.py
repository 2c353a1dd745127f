"""What outputs mean, and how well an engine gives them: one file a task, found by its name."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from edgeres.errors import UsageError
from edgeres.tasks.task import Task

CLASSIFICATION = "classification"
"""The task where nobody names one: one right class for each sample."""
CUSTOM = "custom"
"""A task whose metric the user wrote: ``custom:FILE.py:FUNCTION``."""

_MAKER = "def make_task("


def task_names() -> tuple[str, ...]:
    """Names of all tasks: the files here that hold a ``make_task``. Imports none of them."""
    files = Path(__path__[0]).glob("*.py")
    return tuple(
        sorted(
            file.stem
            for file in files
            if file.stem != "__init__" and f"\n{_MAKER}" in file.read_text(encoding="utf-8")
        )
    )


def open_task(name: str, settings: Mapping[str, Any] | None = None) -> Task:
    """Imports one task and makes it from what a recipe says of it.

    Args:
        name: One of :func:`task_names`.
        settings: What the recipe says besides the name.

    Raises:
        UsageError: No task has that name, or a setting that it does not have or take.
    """
    names = task_names()
    if name not in names:
        close = get_close_matches(name, names, n=1)
        hint = f"Did you mean {close[0]!r}?" if close else f"Choose one of: {', '.join(names)}."
        raise UsageError(f"there is no task {name!r}.", hint=hint)
    task: Task = importlib.import_module(f"edgeres.tasks.{name}").make_task(dict(settings or {}))
    return task


def open_tasks(said: Sequence[Mapping[str, Any]]) -> Task:
    """The task of a recipe's ``task:``, one block or one for each head.

    Raises:
        UsageError: As :func:`open_task`; or two heads of one name.
    """
    if len(said) == 1 and not {"output", "target"} & said[0].keys():
        (only,) = said
        return open_task(only["name"], {k: v for k, v in only.items() if k != "name"})
    from edgeres.tasks.heads import Heads

    return Heads.of(said, open_task)
