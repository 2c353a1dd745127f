"""Runs whose stages are answered from an earlier run: which keys does a change change?

Every stage is answered by what the first run made for it, whatever its key. So each key differs
from that run's exactly where the stage itself depends on what was changed, not through another.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeres.pipeline.convert import prove
from edgeres.pipeline.inputs import open_inputs
from edgeres.recipe.recipe import Recipe
from edgeres.system.progress import Silent
from edgeres.system.store import StageResult, Store, content_key

Keys = dict[tuple[str, int], str]
"""Name of a stage and its place among those of that name, to its key."""


class EndedError(Exception):
    """The run asked for the stage that it is followed to, or for one that never was made."""


@dataclass(frozen=True)
class Recorder(Store):
    """Does stages as ever and remembers them; ends a run at stages that would take long.

    Attributes:
        made: Results by name and place.
        keys: Likewise.
        end_at: Names of stages that end the run, once their key is known.
        instead: Name of a stage to what makes its result in place of the real work.
    """

    made: dict[tuple[str, int], Path] = field(default_factory=dict)
    keys: Keys = field(default_factory=dict)
    end_at: frozenset[str] = frozenset()
    instead: Mapping[str, Callable[[Path, Path], None]] = field(default_factory=dict)

    def stage(self, name: str, **asked: Any) -> StageResult:  # type: ignore[override]
        place = note(self.keys, name, asked)
        if name in self.end_at:
            raise EndedError
        asked["produce"] = self.instead.get(name, asked["produce"])
        result = super().stage(name, **asked)
        self.made[place] = result.path
        return result


@dataclass(frozen=True)
class Playback(Store):
    """Answers every stage by what an earlier run made for the one at its place."""

    made: Mapping[tuple[str, int], Path] = field(default_factory=dict)
    keys: Keys = field(default_factory=dict)

    def stage(self, name: str, **asked: Any) -> StageResult:  # type: ignore[override]
        place = note(self.keys, name, asked)
        if place not in self.made:
            raise EndedError
        return StageResult(name, self.keys[place], self.made[place], True, 0.0, 0)


def note(keys: Keys, name: str, asked: Mapping[str, Any]) -> tuple[str, int]:
    """Writes down the key of a stage that is asked for; gives its place."""
    place = (name, sum(other == name for other, _ in keys))
    keys[place] = content_key(name, asked["inputs"], asked["settings"])
    return place


def keys_of(recipe: Recipe, store: Recorder | Playback) -> Keys:
    """Keys of all stages that a recipe asks for."""
    with contextlib.suppress(EndedError):
        prove(open_inputs(recipe), store, Silent())
    return store.keys


def changed(before: Keys, after: Keys) -> set[str]:
    """Names of the stages that would be done again, or that only one of the runs has."""
    both = before.keys() | after.keys()
    return {place[0] for place in both if before.get(place) != after.get(place)}
