"""``segmentation``: a class for each pixel, against masks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from edgeres.data.targets import Targets
from edgeres.errors import DataError, ModelError
from edgeres.graph.summary import TensorSpec
from edgeres.recipe.block import Block
from edgeres.tasks.metric import Chance, Counts, Metric, Rows, Whole
from edgeres.tasks.reading import one_output, one_target
from edgeres.tasks.task import Outputs, Task

_HIT = "hit"
_SAID = "said"
_RIGHT = "right"
_TOLD = 3
_HINT = "Check the preprocessing, and the numbers of the classes in the masks."


class SegmentationSettings(Block):
    """What a recipe says of it."""

    ignored: Annotated[int, Field(ge=-1)] = Field(
        default=255, description="Number in a mask of pixels that nobody judges."
    )


@dataclass(frozen=True)
class SegmentationTask(Task):
    """Mean intersection over union of the classes, and the share of pixels that are right.

    What is kept of an image is three counts for each class, no map: so without masks nothing can be
    said of two models here, and the task ``outputs`` is the one to take.
    """

    settings: SegmentationSettings

    @property
    def name(self) -> str:
        """Name of the task."""
        return "segmentation"

    @property
    def needs_targets(self) -> bool:
        """Without masks nothing is right or wrong."""
        return True

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Shares in percent, over all pixels of all images."""
        return (
            Metric(
                "miou",
                "mean IoU",
                "pp",
                True,
                0.5,
                value=_mean_iou,
                factor=100.0,
                chance=Chance(_largest, _HINT),
            ),
            Metric("pixels", "pixel accuracy", "pp", True, 0.5, value=_pixels, factor=100.0),
        )

    def reads(self, outputs: Sequence[TensorSpec]) -> tuple[str, ...]:
        """The one output.

        Raises:
            ModelError: There are several, or it is no map of scores.
        """
        names = one_output(self.name, outputs, "a score for each class and pixel")
        shape = outputs[0].shape
        if len(shape) != 4 or shape[1] == 1:
            raise ModelError(
                f"segmentation: expected scores (N, classes, height, width) with two classes or "
                f"more, the output {names[0]!r} is {list(shape)}.",
                hint="Export the network without its argmax.",
            )
        return names

    def rows(self, outputs: Outputs, targets: Targets) -> Rows:
        """Pixels of each class, ``(N, C) float64``: said rightly, said, and right.

        Scores of another size than the masks are resized to it (bilinear, corners not aligned).
        NaN where an output is no number.

        Raises:
            DataError: Masks of another shape, or with numbers that are no classes.
        """
        (scores,) = outputs.values()
        mask = one_target(self.name, targets, "a mask")
        if mask.ndim == 4 and mask.shape[1] == 1:
            mask = mask[:, 0]
        if mask.ndim != 3 or mask.dtype.kind not in "iu" or len(mask) != len(scores):
            raise DataError(
                f"segmentation: expected masks (N, height, width) of class numbers for "
                f"{len(scores)} samples, got {mask.shape} {mask.dtype}.",
                hint="Give a mask for each image, one class number a pixel.",
            )
        classes = scores.shape[1]
        judged = mask != self.settings.ignored
        if (mask[judged] < 0).any() or (mask[judged] >= classes).any():
            wrong = mask[judged & ((mask < 0) | (mask >= classes))]
            raise DataError(
                f"segmentation: the network has {classes} classes, the masks hold {wrong[0]}.",
                hint=f"Pixels that nobody judges are {self.settings.ignored}; `ignored: N` names "
                "another number.",
            )
        counts = np.zeros((3, len(scores), classes))
        for index, (own, right) in enumerate(zip(scores, mask, strict=True)):
            if not np.isfinite(own).all():
                counts[:, index] = math.nan
                continue
            known = judged[index]
            said = resized(own, right.shape).argmax(axis=0)[known]
            right = right[known]  # noqa: PLW2901 - of the pixels that are judged
            for row, kind in enumerate((right[said == right], said, right)):
                counts[row, index] = np.bincount(kind, minlength=classes)
        return dict(zip((_HIT, _SAID, _RIGHT), counts, strict=True))

    def class_map(self, outputs: Outputs) -> NDArray[np.int64]:
        """The class with the largest score at each place of the output."""
        (scores,) = outputs.values()
        return np.asarray(scores[0].argmax(axis=0), dtype=np.int64)

    def text(self, outputs: Outputs, class_names: Sequence[str]) -> str:
        """The classes that cover most of the image, with their shares."""
        (scores,) = outputs.values()
        cover = np.bincount(scores[0].argmax(axis=0).ravel(), minlength=scores.shape[1])
        parts = []
        for k in (int(k) for k in np.argsort(-cover, kind="stable")[:_TOLD] if cover[k]):
            name = class_names[k] if k < len(class_names) else f"class {k}"
            parts.append(f"{name} {100 * cover[k] / cover.sum():.1f} %")
        return ", ".join(parts)


def make_task(settings: dict[str, Any]) -> SegmentationTask:
    """Makes the task.

    Raises:
        UsageError: A key or a value that makes no sense.
    """
    return SegmentationTask(SegmentationSettings(**settings))


def resized(scores: NDArray[Any], size: tuple[int, ...]) -> NDArray[np.float32]:
    """Bilinear, as ``torch.nn.functional.interpolate(..., align_corners=False)``.

    Args:
        scores: ``(C, h, w)``.
        size: Height and width that are wanted.
    """
    values = scores.astype(np.float32)
    if values.shape[1:] == tuple(size):
        return values
    rows, columns = (_weights(a, b) for a, b in zip(values.shape[1:], size, strict=True))
    return np.asarray(rows @ values @ columns.T)


def _weights(before: int, after: int) -> NDArray[np.float32]:
    """``(after, before)``: how much of each pixel there is in each new one."""
    where = np.maximum((np.arange(after) + 0.5) * (before / after) - 0.5, 0.0)
    low = np.minimum(where.astype(np.int64), before - 1)
    high = np.minimum(low + 1, before - 1)
    weights = np.zeros((after, before), np.float32)
    rows = np.arange(after)
    weights[rows, low] += 1 - (where - low)
    weights[rows, high] += where - low
    return weights


def _mean_iou(rows: Rows) -> Whole:
    """Mean over the classes that anybody said or that are right anywhere."""
    hit, said, right = rows[_HIT], rows[_SAID], rows[_RIGHT]
    joined = said + right - hit

    def figure(counts: Counts) -> float:
        hits, union = counts @ hit, counts @ joined
        there = union > 0
        return float((hits[there] / union[there]).mean()) if there.any() else math.nan

    return figure


def _largest(rows: Rows) -> float:
    """Mean IoU of the largest class for every pixel."""
    right = rows[_RIGHT].sum(axis=0)
    there = int((right > 0).sum())
    return float(right.max() / right.sum() / there) if there > 1 else math.nan


def _pixels(rows: Rows) -> Whole:
    hit, right = rows[_HIT].sum(axis=1), rows[_RIGHT].sum(axis=1)

    def figure(counts: Counts) -> float:
        pixels = float(counts @ right)
        return float(counts @ hit) / pixels if pixels else math.nan

    return figure
