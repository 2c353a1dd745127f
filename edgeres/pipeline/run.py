"""One run at work: its recipe, its store, and the record of the stages it went through."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

from edgeres.data.calibration import CalibrationImages
from edgeres.data.hashes import FileHashes
from edgeres.recipe.recipe import Recipe
from edgeres.system.environment import Environment
from edgeres.system.memory import give_back, peak_rss_bytes
from edgeres.system.progress import Listener, ProgressCallback, StagePart, advance
from edgeres.system.store import StageResult, Store
from edgeres.tasks.task import Task


@dataclass
class Run:
    """The state of one call of :func:`edgeres.convert`; lives as long as the call."""

    recipe: Recipe
    store: Store
    listener: Listener
    environment: Environment
    calibration: CalibrationImages
    hashes: FileHashes = field(default_factory=FileHashes)
    task: Task | None = None
    stages: list[StagePart] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def stage(
        self,
        name: str,
        *,
        inputs: Mapping[str, str],
        settings: Mapping[str, object],
        produce: Callable[[Path, Path, ProgressCallback], None],
        label: str = "",
    ) -> StageResult:
        """Finds or makes a stage's result and tells the listener; see :meth:`Store.stage`.

        Args:
            name: Stage name; part of the key.
            inputs: What it is made from: name to SHA-256.
            settings: Everything else that changes the result.
            produce: Gets the folder to write into, the one for states of long work, and a
                progress callback.
            label: Name in the report and on the screen; the stage's name where empty.
        """
        label = label or name
        self.listener.started(label)
        result = self.store.stage(
            name,
            inputs=inputs,
            settings=settings,
            produce=lambda folder, work: produce(folder, work, advance(self.listener, label)),
        )
        part = StagePart(
            label, result.seconds, result.cached, result.peak_rss_bytes, result.path.name
        )
        self.stages.append(part)
        self.listener.finished(part)
        if not result.cached:
            give_back()
        return result

    def warn_once(self, message: str) -> None:
        """Tells a person something, once a run however many stages find it; empty says nothing."""
        if message and message not in self.warnings:
            self.warnings.append(message)
            self.listener.note(f"warning: {message}")

    @contextmanager
    def measured(self, label: str) -> Iterator[ProgressCallback]:
        """A stage that is done anew in every run and stores nothing."""
        self.listener.started(label)
        started = monotonic()
        yield advance(self.listener, label)
        part = StagePart(label, monotonic() - started, False, peak_rss_bytes())
        self.stages.append(part)
        self.listener.finished(part)
