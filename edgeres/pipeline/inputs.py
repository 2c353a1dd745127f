"""Everything that a recipe names, found and opened before any work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgeres.backends import get_backend, target_names
from edgeres.backends.target import Target, open_targets, target_list
from edgeres.data.calibration import CalibrationImages
from edgeres.data.checks import check_calibration
from edgeres.data.hashes import FileHashes
from edgeres.data.sampling import take
from edgeres.data.source import open_dataset, training_fingerprint
from edgeres.data.types import Dataset
from edgeres.errors import UsageError
from edgeres.evaluation.run_task import task_of
from edgeres.pipeline.find_source import (
    Source,
    check_prunable_source,
    find_source,
    prunes_graph,
)
from edgeres.pipeline.network import train_data_of
from edgeres.pipeline.tasks import said_of
from edgeres.recipe.recipe import Recipe
from edgeres.stages.sample_counts import fit_recipe
from edgeres.system.extras import require_packages
from edgeres.tasks.task import Task


def _packages(recipe: Recipe, source: Source) -> list[str]:
    """Packages that stages of this recipe import, whatever its targets are."""
    trains = recipe.prune is not None or recipe.quantize.qat is not None
    return [
        "onnxruntime",
        *(["torch", "onnxscript"] if trains or source.kind != "onnx" else []),
        *(["keras"] if source.module is not None and source.module.kind == "keras" else []),
        *(["torch_pruning"] if recipe.prune is not None else []),
    ]


@dataclass(frozen=True)
class Inputs:
    """Everything that a recipe names, found and opened.

    Attributes:
        recipe: The recipe.
        targets: Each once.
        source: The trained network.
        everything: The whole validation set.
        validation: The part of it that is used.
        calibration: The calibration images, opened once for all stages.
        hashes: What is known of the content of image files.
        note: What was shrunk of the recipe's default numbers of images; empty where nothing was.
        task: What the outputs mean; ``None`` for a classifier.
    """

    recipe: Recipe
    targets: list[Target]
    source: Source
    everything: Dataset
    validation: Dataset
    calibration: CalibrationImages
    hashes: FileHashes
    note: str = ""
    task: Task | None = None


def _refuse_precision(recipe: Recipe, targets: Sequence[Target]) -> None:
    """Refuses another float precision where a target makes no such engines."""
    wanted = recipe.quantize.precision
    if wanted in ("int8", "fp32"):
        return
    for target in targets:
        if wanted not in target.backend.float_builds(target.device):
            others = map(get_backend, target_names())
            able = [
                each.name for each in others if wanted in each.float_builds(each.default_device)
            ]
            raise UsageError(
                f"`quantize.precision`: {target.name} makes no {wanted.upper()} engines for "
                f"{target.device} here.",
                hint=f"Take fp32, or targets that do: {', '.join(able)}."
                if able
                else "Take fp32 or int8: no target here makes them.",
            )


def open_inputs(
    recipe: Recipe,
    hashes: FileHashes | None = None,
    *,
    validation: Dataset | None = None,
    calibration: Dataset | None = None,
) -> Inputs:
    """Finds what a recipe names, before anything is written.

    Args:
        recipe: The recipe.
        hashes: What is known of the content of image files.
        validation: Samples to judge by, in place of what the recipe names.
        calibration: Samples to calibrate with, likewise.

    Raises:
        EdgeResError: Something is not there, or cannot be used.
    """
    targets = open_targets(
        target_list(recipe.targets),
        settings=recipe.build,
        portable=recipe.quantize.portable,
        activations=recipe.quantize.activations,
    )
    _refuse_precision(recipe, targets)
    source = find_source(recipe.model, outputs=recipe.kept_outputs, classes=recipe.is_classifier)
    task = task_of([] if recipe.is_classifier else said_of(recipe))
    require_packages(_packages(recipe, source))
    hashes = hashes or FileHashes()
    everything = validation or open_dataset(
        recipe.data.validation,
        split="validation",
        hashes=hashes,
        labels_needed=task is None or task.needs_targets,
    )
    validation = take(everything, recipe.data.validation_samples)
    images = calibration or open_dataset(
        recipe.data.calibration, split="calibration", hashes=hashes
    )
    check_prunable_source(recipe, source)
    if recipe.prune is not None and not prunes_graph(source):
        train_data_of(recipe, "pruning fine-tunes")
    if recipe.quantize.qat is not None:  # say so now, not after an hour of pruning
        training_fingerprint(train_data_of(recipe, "`quantize: {qat: ...}` trains"), hashes)
    fitted = fit_recipe(recipe, images, validation)
    recipe = fitted.recipe
    calibrating = CalibrationImages(images, recipe.data.calibration_samples)
    check_calibration(calibrating.used)
    return Inputs(
        recipe, targets, source, everything, validation, calibrating, hashes, fitted.note, task
    )
