"""The task that a run was judged by, kept beside its baseline for whoever judges its engines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgeres.errors import ArtefactError, UsageError
from edgeres.evaluation import run_folder
from edgeres.evaluation.predictions import Predictions, load_predictions
from edgeres.system.files import write_atomic
from edgeres.system.stored_arrays import about_in
from edgeres.system.stored_json import read_stored
from edgeres.tasks import CLASSIFICATION, CUSTOM, open_tasks
from edgeres.tasks.answers import Answers, are_answers, load_answers
from edgeres.tasks.task import Task


def said_task(text: str) -> dict[str, Any]:
    """What ``--task`` says, as a recipe would: a name, or ``custom:FILE.py:FUNCTION``."""
    name, colon, function = text.partition(":")
    if not colon or name != CUSTOM:
        return {"name": text}
    file, _, called = function.rpartition(":")
    whole = str(Path(file).expanduser().resolve()) if file else ""
    return {"name": CUSTOM, "function": f"{whole}:{called}" if file else function}


def task_of(said: Sequence[dict[str, Any]]) -> Task | None:
    """The task that is said; ``None`` for a plain classifier.

    Raises:
        UsageError: As :func:`edgeres.tasks.open_tasks`.
    """
    return None if list(said) in ([], [{"name": CLASSIFICATION}]) else open_tasks(said)


def write_task(folder: Path, said: Sequence[dict[str, Any]]) -> None:
    """Writes what a recipe says of its task into a ``baseline`` folder.

    Raises:
        StorageError: It cannot be written.
    """
    write_atomic(folder / run_folder.TASK, (json.dumps(list(said), indent=1) + "\n").encode())


def stored_task(run: Path) -> list[dict[str, Any]]:
    """What the recipe of a run said of its task; empty for a classifier.

    Raises:
        ArtefactError: It is damaged.
    """
    return _read(run / run_folder.BASELINE / run_folder.TASK)


def load_run_answers(path: Path) -> Predictions | Answers:
    """Reads a file of answers, of a classifier or of another task.

    Raises:
        ArtefactError: It is none.
    """
    return load_answers(path) if are_answers(path) else load_predictions(path)


def run_said(engine: Path, baseline: Path | None = None) -> list[dict[str, Any]]:
    """What was said of the task of the run that an engine is from, or that its baseline lies in.

    Args:
        engine: The engine file.
        baseline: A file of answers, where one was given.

    Returns:
        As a recipe says it; empty for a classifier.

    Raises:
        ArtefactError: What is kept of it is damaged.
    """
    folders = [run_folder.run_of(engine) / run_folder.BASELINE]
    if baseline is not None:
        folders.insert(0, baseline.resolve().parent)
    return next((said for folder in folders if (said := _read(folder / run_folder.TASK))), [])


def run_class_names(
    engine: Path, baseline: Path | Predictions | Answers | None = None
) -> tuple[str, ...]:
    """Names of the classes of the run that an engine is from, or of the answers it is judged by.

    Args:
        engine: The engine file.
        baseline: Answers, or a file of them, where they were given.

    Returns:
        In the order of the scores; empty where nobody said them.
    """
    if isinstance(baseline, Predictions | Answers):
        return tuple(baseline.class_names)
    stored = run_folder.run_of(engine) / run_folder.BASELINE / run_folder.PREDICTIONS
    names = about_in(stored if baseline is None else baseline).get("class_names", [])
    return tuple(names) if all(isinstance(name, str) for name in names) else ()


def agreed_said(
    engine: Path, baseline: Path | None = None, named: str | None = None
) -> list[dict[str, Any]]:
    """The task that a person names, or else that of the engine's run.

    A run may be anybody's, so code that it names is not run until the person names it too.

    Args:
        engine: As for :func:`run_said`.
        baseline: Likewise.
        named: The task as ``--task`` says it; one of code stands for the run's with that code,
            whose unit and other heads then hold.

    Raises:
        ArtefactError: As :func:`run_said`.
        UsageError: The run names code, and nobody else does.
    """
    asked = None if named is None else said_task(named)
    if asked is not None and asked["name"] != CUSTOM:
        return [asked]
    said = run_said(engine, baseline)
    code = {str(block.get("function")) for block in said if block["name"] == CUSTOM}
    if asked is not None:
        return said if code == {asked["function"]} else [asked]
    if code:
        raise UsageError(
            f"{engine}: its run was judged by code, {', '.join(sorted(code))}.",
            hint="Read it, then name it: --task custom:FILE.py:FUNCTION.",
        )
    return said


def run_task(engine: Path, baseline: Path | None = None) -> Task | None:
    """The task that :func:`agreed_said` gives; ``None`` for a plain classifier.

    Raises:
        ArtefactError: As there.
        UsageError: As there.
    """
    return task_of(agreed_said(engine, baseline))


def _read(file: Path) -> list[dict[str, Any]]:
    if not file.is_file():
        return []
    said = read_stored(file, list[dict[str, Any]])
    if not all(isinstance(block.get("name"), str) for block in said):
        raise ArtefactError(f"{file}: says no task.", hint="Run `edgeres convert` again.")
    return said
