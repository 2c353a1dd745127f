"""How stages tell what they are doing. Libraries call these; only the command line draws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

ProgressCallback = Callable[[int, int], None]
"""Called with (steps done, steps in all, as far as they are known)."""


@dataclass(frozen=True)
class StagePart:
    """One stage of the pipeline; ``result`` names its folder in the store, if it keeps one."""

    name: str
    seconds: float
    cached: bool
    peak_rss_bytes: int
    result: str = ""


class Listener(Protocol):
    """Hears of every stage of a run."""

    def started(self, stage: str) -> None:
        """A stage begins."""
        ...

    def advanced(self, stage: str, done: int, total: int) -> None:
        """``done`` of ``total`` steps of a stage are over."""
        ...

    def finished(self, stage: StagePart) -> None:
        """A stage ended, or its stored result was found."""
        ...

    def note(self, message: str) -> None:
        """Something a person should know, in one line."""
        ...


class Silent:
    """Hears everything and says nothing."""

    def started(self, stage: str) -> None:
        """Does nothing."""

    def advanced(self, stage: str, done: int, total: int) -> None:
        """Does nothing."""

    def finished(self, stage: StagePart) -> None:
        """Does nothing."""

    def note(self, message: str) -> None:
        """Does nothing."""


def advance(listener: Listener, stage: str) -> ProgressCallback:
    """A ``progress(done, total)`` callback for one stage."""

    def call(done: int, total: int) -> None:
        listener.advanced(stage, done, total)

    return call


def bar(listener: Listener, stage: str) -> ProgressCallback:
    """Tells that a stage begins; a ``progress(done, total)`` callback for it."""
    listener.started(stage)
    return advance(listener, stage)
