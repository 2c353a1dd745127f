"""``embedding``: vectors whose directions are compared: faces, speakers, re-identification."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from edgeres.data.targets import Targets
from edgeres.errors import DataError
from edgeres.graph.summary import TensorSpec
from edgeres.recipe.block import Block, OpenShare
from edgeres.tasks.kept import SAME
from edgeres.tasks.metric import Chance, Metric, Rows, Whole
from edgeres.tasks.pairs import cosines, nearest_is_same, pairs_of, true_accepts
from edgeres.tasks.reading import flat_output, one_output, one_target, whole_numbers
from edgeres.tasks.task import Outputs, Task

_UNIT = "unit"
_LABEL = "label"
_SHOWN = 6
_HINT = "Check the preprocessing, and that each number says what its sample shows."
LEAST_DB = 20.0
"""A mean cosine to the float network of 0.995."""


class EmbeddingSettings(Block):
    """What a recipe says of it."""

    labelled: bool = Field(
        default=True,
        description="Whether the data says who or what a sample shows; else only the directions "
        "are compared with the float network's.",
    )
    false_accepts: OpenShare = Field(
        default=0.001, description="Share of pairs of different things that may be accepted."
    )


@dataclass(frozen=True)
class EmbeddingTask(Task):
    """Verification and retrieval by the cosine, and how near the directions are to FP32's."""

    settings: EmbeddingSettings

    @property
    def name(self) -> str:
        """Name of the task."""
        return "embedding"

    @property
    def needs_targets(self) -> bool:
        """Not where only directions are compared."""
        return self.settings.labelled

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """True accepts, recall, and the closeness of directions.

        ``recall1`` takes the other samples as the gallery; a sample whose label no other image has
        is a miss of both models. The same image again is neither a neighbour nor a pair.
        ``direction_db`` is the SQNR of the vectors at length 1, ``10 log10(1 / mean(2 - 2
        cosine))``: 20 dB are a mean cosine of 0.995.
        """
        own = self.settings
        near = Metric(
            "direction_db", "SQNR of directions", "dB", True, LEAST_DB, closeness=_directions
        )
        if not own.labelled:
            return (near,)
        share = f"{100 * own.false_accepts:g} %"
        return (
            Metric(
                "tar",
                f"true accepts at {share} false ones",
                "pp",
                True,
                1.0,
                value=partial(_accepted, own.false_accepts),
                factor=100.0,
            ),
            Metric(
                "recall1",
                "recall at 1",
                "pp",
                True,
                0.5,
                scores=_recalled,
                factor=100.0,
                chance=Chance(_any_other, _HINT),
            ),
            near,
        )

    def reads(self, outputs: Sequence[TensorSpec]) -> tuple[str, ...]:
        """The one output.

        Raises:
            ModelError: There are several.
        """
        return one_output(self.name, outputs, "the embedding")

    def rows(self, outputs: Outputs, targets: Targets) -> Rows:
        """The vectors at length 1, ``(N, D) float32``, and the labels ``(N,) int64``.

        Raises:
            DataError: Labels that are no whole numbers, one for each sample.
        """
        vectors = flat_output(outputs)
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        units[(vectors == 0).all(axis=1)] = 0.0  # has no direction: near to nothing
        rows: dict[str, NDArray[Any]] = {_UNIT: units.astype(np.float32)}
        if not self.settings.labelled:
            return rows
        label = one_target(self.name, targets, "the number of what it shows")
        if label.shape != (len(units),):
            raise DataError(
                f"embedding: expected one number of what it shows for each of {len(units)} "
                f"samples, got {label.shape} {label.dtype}.",
                hint="Give such data, or `task: {name: embedding, labelled: false}`.",
            )
        return rows | {_LABEL: whole_numbers(self.name, label)}

    def distributions(self, rows: Rows) -> Mapping[str, Mapping[str, NDArray[np.float64]]]:
        """Cosines of pairs that show the same, and of pairs that do not."""
        if not self.settings.labelled:
            return {}
        pairs = pairs_of(rows[_LABEL], same=rows.get(SAME))
        near = cosines(rows[_UNIT], pairs).astype(np.float64)
        return {"cosine of pairs": {"the same": near[pairs.same], "others": near[~pairs.same]}}

    def text(self, outputs: Outputs, class_names: Sequence[str]) -> str:
        """Length and first numbers of the vector."""
        vector = flat_output(outputs)[0]
        shown = " ".join(f"{number:.4g}" for number in vector[:_SHOWN])
        return f"[{len(vector)}] {shown}" + (" ..." if len(vector) > _SHOWN else "")


def make_task(settings: dict[str, Any]) -> EmbeddingTask:
    """Makes the task.

    Raises:
        UsageError: A key or a value that makes no sense.
    """
    return EmbeddingTask(EmbeddingSettings(**settings))


def _accepted(false_accepts: float, rows: Rows) -> Whole:
    pairs = pairs_of(rows[_LABEL], same=rows.get(SAME))
    return true_accepts(cosines(rows[_UNIT], pairs), pairs, false_accepts)


def _recalled(rows: Rows) -> NDArray[np.float64]:
    return nearest_is_same(rows[_UNIT], rows[_LABEL], rows.get(SAME))


def _any_other(rows: Rows) -> float:
    """Recall at 1 where any other sample may be the nearest."""
    sizes = np.unique(rows[_LABEL], return_counts=True)[1].astype(np.float64)
    count = sizes.sum()
    share = float((sizes * (sizes - 1)).sum() / max(1.0, count * (count - 1)))
    return share if 0 < share < 1 else math.nan


def _directions(
    reference: Rows, candidate: Rows
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """1 and the squared distance of the two directions, for each sample."""
    one = reference[_UNIT].astype(np.float64)
    two = candidate[_UNIT].astype(np.float64)
    return np.square(one).sum(axis=1), np.square(one - two).sum(axis=1)
