"""One FP32 network of a run, and the training images that pruning and QAT need."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgeres.errors import UsageError
from edgeres.graph.summary import ModelSummary, summarize
from edgeres.recipe.recipe import Recipe
from edgeres.system.files import file_sha256


@dataclass(frozen=True)
class Network:
    """One FP32 network as ONNX in normal form.

    Attributes:
        label: ``dense`` or ``pruned``.
        onnx: The file; ``sha256`` its hash.
        summary: Parameters and multiply-adds.
        checkpoint: The torch checkpoint it was exported from; ``None`` for a foreign ONNX file.
    """

    label: str
    onnx: Path
    sha256: str
    summary: ModelSummary
    checkpoint: Path | None


def network_of(label: str, onnx: Path, checkpoint: Path | None) -> Network:
    """The network of an ONNX file."""
    return Network(label, onnx, file_sha256(onnx), summarize(onnx), checkpoint)


def train_data_of(recipe: Recipe, why: str) -> str:
    """Training images of a recipe, as after ``--data``.

    Raises:
        UsageError: It names none.
    """
    if recipe.data.train is None:
        raise UsageError(
            f"{why}, and the recipe names no training images.",
            hint="Set `data: {train: ...}` or give --train-data.",
        )
    return recipe.data.train
