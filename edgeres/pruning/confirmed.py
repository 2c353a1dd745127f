"""What is kept of widths that were built and measured before they were chosen."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal

from edgeres.system.child import JsonValue
from edgeres.system.stored_json import parse_stored

Kept = Literal["latency", "uniform"]


@dataclass(frozen=True)
class Round:
    """One choice, built and measured; milliseconds are p50 by the clock of the dense time.

    Attributes:
        widths: Of the groups, as the search chose them.
        predicted_ms: What the search took them for, before they were built.
        measured_ms: What they took.
        uniform_widths: Even widths of as many multiply-adds.
        uniform_predicted_ms: Likewise.
        uniform_ms: Likewise, in the same measurement.
        dense_ms: The dense network in this measurement, by the machine's own clock.
    """

    widths: Mapping[str, int]
    predicted_ms: float
    measured_ms: float
    uniform_widths: Mapping[str, int]
    uniform_predicted_ms: float
    uniform_ms: float
    dense_ms: float

    @property
    def kept(self) -> Kept:
        """The faster of the two; the choice of the search where they are equal."""
        return "latency" if self.measured_ms <= self.uniform_ms else "uniform"


@dataclass(frozen=True)
class ConfirmedWidths:
    """The widths that are kept, and how they were found.

    Attributes:
        widths: Of the groups.
        kept: ``uniform`` where even widths of as many multiply-adds were measured to be faster.
        predicted_ms: What these widths were taken for before they were built.
        measured_ms: What they took.
        uniform_ms: What even widths of as many multiply-adds took in the same measurement.
        within_budget: Whether they were measured to be within the budget.
        rounds: All that was tried.
    """

    widths: Mapping[str, int]
    kept: Kept
    predicted_ms: float
    measured_ms: float
    uniform_ms: float
    within_budget: bool
    rounds: tuple[Round, ...]

    def to_json(self) -> str:
        """One line of JSON, for the metadata of a checkpoint; :meth:`from_json` reads it."""
        return json.dumps(self.to_dict(), sort_keys=True)

    @staticmethod
    def from_json(text: str, where: str) -> ConfirmedWidths:
        """Reads what :meth:`to_json` wrote.

        Args:
            text: JSON.
            where: What it stands in, for the error.

        Raises:
            ArtefactError: A field is missing or of another type.
        """
        return parse_stored(text, ConfirmedWidths, where=where)

    def to_dict(self) -> dict[str, JsonValue]:
        """As plain JSON values."""
        rounds = [{**asdict(tried), "kept": tried.kept} for tried in self.rounds]
        return {**asdict(self), "rounds": rounds}
