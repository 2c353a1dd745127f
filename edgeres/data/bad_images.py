"""Images that cannot be decoded are left out, counted and named, up to a limit.

One damaged file among 50,000 should not stop an evaluation, and must not pass unseen either.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgeres.errors import DataError

if TYPE_CHECKING:
    from edgeres.data.types import Dataset, Sample


@dataclass
class BadImages:
    """Collects the images that were left out while a data set was read.

    Give the same collector to every pass over the same data set: an image counts once, and every
    pass leaves out the same ones, so that their results stay paired.

    Attributes:
        max_share: Share of the images, in [0, 1], that may be bad before reading fails.
        reasons: Image name to what is wrong with it.
    """

    max_share: float = 0.01
    reasons: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, error: DataError, total: int) -> None:
        """Notes one bad image.

        Args:
            name: Name of the image.
            error: Why it cannot be used.
            total: Number of images that are being read.

        Raises:
            DataError: More than ``max_share`` of ``total`` are bad.
        """
        self.reasons[name] = error.message
        if len(self.reasons) > self.max_share * total:
            raise DataError(
                f"Expected at most {self.max_share:.2%} bad images, got {len(self.reasons)} bad "
                f"ones while reading {total}, e.g. {error.message}",
                hint="Repair the data set.",
            ) from error

    def summary(self) -> str:
        """One line with the count and the first ten names; empty where there are none."""
        if not self.reasons:
            return ""
        names = ", ".join(list(self.reasons)[:10])
        more = ", ..." if len(self.reasons) > 10 else ""
        return f"{len(self.reasons)} images could not be decoded and were left out: {names}{more}"


def first_image(images: Dataset) -> Sample:
    """The first image that can be decoded; a bad one does not hide the size of the others.

    Raises:
        DataError: None can be, or too many were tried.
    """
    skipped = BadImages()
    for index in range(len(images)):
        try:
            return images.image(index)
        except DataError as error:
            skipped.add(images.image_name(index), error, len(images))
    raise DataError(f"{images.name}: no image can be decoded.", hint="Repair the data set.")
