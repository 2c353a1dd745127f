"""How many images each part of a run gets: defaults shrink to what is there, demands do not.

The defaults (512 images calibrate, 5,000 training images choose the epoch, 256 judge mixed
precision) are for sets of thousands. A set of a few hundred is no error: each part then takes what
it can, and one line says so. A number that somebody asked for is kept, and one that cannot be is an
error before any work.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeres.data.fashion_mnist import TRAINING_LABEL_COUNTS
from edgeres.data.source import open_dataset
from edgeres.data.types import Dataset
from edgeres.errors import DataError
from edgeres.recipe.prune import PruneSettings
from edgeres.recipe.quantize import MixedPrecisionSettings
from edgeres.recipe.recipe import Recipe
from edgeres.recipe.training import QatSettings

Labels = NDArray[np.int64]

_HELD_OUT_PART = 5  # a fifth of the training images at most choose the epoch
_JUDGING_PART = 3  # a third of the calibration images at most judge instead
_LEAST = 2


@dataclass(frozen=True)
class Fitted:
    """A recipe whose default numbers of images fit the data.

    Attributes:
        recipe: The recipe with these numbers in it.
        note: What was shrunk, in one line; empty where nothing was.
    """

    recipe: Recipe
    note: str


def fit_recipe(recipe: Recipe, calibration: Dataset, validation: Dataset) -> Fitted:
    """Shrinks the default numbers of images of a recipe to its data, and checks the others.

    Args:
        recipe: What to do.
        calibration: The whole calibration set.
        validation: The validation images that are used.

    Raises:
        DataError: More images are asked for than there are.
        UsageError: The training data have none of the known forms.
    """
    _check_batch(recipe, validation)
    changes, notes = _calibration(recipe, calibration)
    qat = recipe.quantize.qat
    if recipe.data.train is not None and (recipe.prune is not None or qat is not None):
        labels = training_labels(recipe.data.train, needed=recipe.is_classifier)
        if recipe.prune is not None:
            pruning, said = fit_pruning(recipe.prune, labels)
            if pruning is not recipe.prune:
                assert pruning.finetune is not None
                changes["prune.finetune.held_out"] = pruning.finetune.held_out
                notes.append(said)
        if qat is not None:
            training, said = fit_qat(qat, labels)
            if training is not qat:
                changes["quantize.qat.held_out"] = training.held_out
                notes.append(said)
    note = f"few images: {', '.join(dict.fromkeys(notes))}." if notes else ""
    return Fitted(recipe.override(changes) if changes else recipe, note)


def training_labels(spec: str, *, needed: bool = True) -> Labels:
    """Labels of a training set; those of Fashion-MNIST are known without its images.

    Args:
        spec: The set, as after ``--data``.
        needed: Whether a set without labels will not do.

    Raises:
        UsageError: The text has none of the forms of a data set.
        DataError: The files are missing or damaged.
    """
    if spec == "fashion-mnist":
        return np.repeat(np.arange(len(TRAINING_LABEL_COUNTS)), TRAINING_LABEL_COUNTS)
    return open_dataset(spec, split="train", labels_needed=needed).labels


def fit_pruning(block: PruneSettings, labels: Labels) -> tuple[PruneSettings, str]:
    """The block with as many held-out images as the training set allows, and what was shrunk.

    Raises:
        DataError: A number that was asked for cannot be held out.
    """
    if block.finetune is None:
        return block, ""
    asked_for = "held_out" in block.finetune.model_fields_set
    count, note = fit_held_out(labels, block.finetune.held_out, given=asked_for)
    if not note:
        return block, ""
    return block.replace(finetune=block.finetune.replace(held_out=count)), note


def fit_qat(block: QatSettings, labels: Labels) -> tuple[QatSettings, str]:
    """The same for quantization-aware training.

    Raises:
        DataError: A number that was asked for cannot be held out.
    """
    is_given = "held_out" in block.model_fields_set
    count, note = fit_held_out(labels, block.held_out, given=is_given)
    return (block.replace(held_out=count), note) if note else (block, "")


def fit_held_out(labels: Labels, number: int, *, given: bool) -> tuple[int, str]:
    """How many training images choose the epoch, and what was shrunk.

    A default is at most a fifth of the images and leaves each class at least half of its own.

    Args:
        labels: Of the training set, ``(N,)``.
        number: The number that was asked for, or the default.
        given: Whether it was asked for.

    Raises:
        DataError: A number that was asked for cannot be held out.
    """
    from edgeres.training.split import split_held_out

    if given:
        split_held_out(labels, number, 0)
        return number, ""
    _, counts = np.unique(labels, return_counts=True)
    most = min(len(labels) // _HELD_OUT_PART, int(counts.min()) // 2 * len(counts))
    count = max(1, min(number, most))
    split_held_out(labels, count, 0)
    if count == number:
        return number, ""
    return (
        count,
        f"{count} of {len(labels)} training images choose the epoch ({number:,} by default, "
        "`held_out`)",
    )


def fit_sensitivity(samples: int | None, default: int, images: int, *, calibrated: bool) -> int:
    """How many of a set's images a sensitivity is measured on; the others calibrate.

    Args:
        samples: The number that was asked for; ``None`` is the default, of at most half the images.
        default: What to take where there are enough.
        images: Images of the set.
        calibrated: Whether a calibration table is there, so that all images may be measured on.
    """
    if samples is not None:
        return samples
    return min(default, images if calibrated else max(1, images // 2))


def _calibration(recipe: Recipe, calibration: Dataset) -> tuple[dict[str, int], list[str]]:
    """Shrunk numbers by dotted key, and what is said of them."""
    block = recipe.quantize.mixed_precision
    used, images = recipe.data.calibration_samples, len(calibration)
    used_given = "calibration_samples" in recipe.data.model_fields_set
    judging, judging_given = 0, True
    if block is not None:
        judging, judging_given = block.samples, "samples" in block.model_fields_set
    if not judging_given:
        room = images - used if used_given else images // _JUDGING_PART
        judging = max(_LEAST, min(judging, room))
    if not used_given:
        used = max(_LEAST, min(used, images - judging))
    if used + judging > images >= _LEAST:
        raise DataError(
            f"{calibration.name}: {used} images were asked for to calibrate"
            + (f" and {judging} held-out ones to judge mixed precision" if judging else "")
            + f", the set has {images}.",
            hint="Ask for fewer, or give a larger set.",
        )
    changes: dict[str, int] = {}
    notes: list[str] = []
    if used < recipe.data.calibration_samples:
        changes["data.calibration_samples"] = used
        notes.append(
            f"{used} of {images} images calibrate ({recipe.data.calibration_samples} by default, "
            "--calibration-samples)"
        )
    if block is not None and judging < block.samples:
        changes["quantize.mixed_precision.samples"] = judging
        notes.append(f"{judging} judge mixed precision ({block.samples} by default, `samples`)")
    _check_judging(recipe, block, judging)
    return changes, notes


def _check_judging(recipe: Recipe, block: MixedPrecisionSettings | None, judging: int) -> None:
    size = recipe.benchmark.batch_size
    if block is not None and judging < max(_LEAST, size):
        raise DataError(
            f"{judging} images judge mixed precision, too few to time batches of {size} that "
            "differ.",
            hint="Raise `quantize: {mixed_precision: {samples: ...}}` or lower "
            "`benchmark: {batch_size: ...}`.",
        )


def _check_batch(recipe: Recipe, validation: Dataset) -> None:
    """Two batches that differ are timed, so that answers kept from before show."""
    size = recipe.benchmark.batch_size
    if len(validation) < max(_LEAST, size):
        raise DataError(
            f"{validation.name}: {len(validation)} images are too few to time batches of {size} "
            "that differ.",
            hint="Give more images, or lower `benchmark: {batch_size: ...}`.",
        )
