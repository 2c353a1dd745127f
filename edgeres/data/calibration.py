"""The calibration images of a run: opened once, and every stage takes its part of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from edgeres.data.sampling import take, take_held_out
from edgeres.data.types import Dataset


@dataclass(frozen=True)
class CalibrationImages:
    """A set of images and how many of it calibrate; the others may judge what came of it.

    Attributes:
        everything: The whole set.
        samples: How many calibrate.
    """

    everything: Dataset
    samples: int

    @cached_property
    def used(self) -> Dataset:
        """The images that calibrate, with the classes in turn."""
        return take(self.everything, self.samples)

    def held_out(self, count: int) -> Dataset:
        """Images that do not calibrate.

        Raises:
            DataError: Fewer are left.
        """
        return take_held_out(self.everything, self.samples, count)
