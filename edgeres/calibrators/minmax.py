"""The calibrator ``minmax``: nothing is clipped."""

from __future__ import annotations

from edgeres.calibrators.base import ChosenRange, Summary, whole_range


def choose(summary: Summary) -> ChosenRange:
    """The whole range."""
    return whole_range(summary)
