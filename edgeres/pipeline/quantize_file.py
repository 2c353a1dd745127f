"""Quantizes one ONNX file for one target, without a run: calibrate, train if asked, write Q/DQ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeres.backends.portable import PORTABLE
from edgeres.backends.target import rules_of
from edgeres.data.preprocess import Preprocess
from edgeres.data.source import open_dataset
from edgeres.data.types import Dataset
from edgeres.errors import UsageError
from edgeres.pipeline.network import train_data_of
from edgeres.pipeline.source import onnx_preprocess
from edgeres.quantization.table import CalibrationTable
from edgeres.recipe.quantize import QuantizeBlock
from edgeres.recipe.recipe import Recipe
from edgeres.stages import int8
from edgeres.stages.sample_counts import fit_qat, training_labels
from edgeres.stages.table_origin import check_table, kept_table, preprocess_of
from edgeres.system.files import StrPath, output_file
from edgeres.system.progress import Listener, Silent, bar

if TYPE_CHECKING:
    from edgeres.quantization.quantize import QuantizeResult


@dataclass(frozen=True)
class QuantizedFile:
    """A Q/DQ file and what it was made with.

    Attributes:
        onnx: The file.
        table: The calibration table.
        rule_set: The target, or ``portable``.
        result: What was quantized.
    """

    onnx: Path
    table: Path
    rule_set: str
    result: QuantizeResult


def quantize_file(
    onnx: StrPath,
    output: StrPath,
    *,
    recipe: Recipe,
    data: str,
    target: str | None = None,
    device: str | None = None,
    options: Mapping[str, str] | None = None,
    table: StrPath | None = None,
    listener: Listener | None = None,
) -> QuantizedFile:
    """Calibrates an FP32 ONNX model and writes the Q/DQ model that one target asks for, or all.

    Beside the Q/DQ file lie its calibration table and, where the recipe asks for them, the
    equalized model, what training learned, and its resumable state.

    Args:
        onnx: FP32 model; it is tried in a child process first.
        output: The Q/DQ file; ``.onnx`` is added if it lacks.
        recipe: Its ``quantize:``, ``preprocess:`` and ``data: {train: ...}`` hold.
        data: Calibration images, as after ``--data``.
        target: Whose rules hold, or ``portable``; a recipe with ``portable: true`` needs none.
        device: ``cpu``, ``cuda:N``, ``gpu:N`` or ``npu``; the target's best if none.
        options: The target's own, where they decide what computes the file; the recipe's if none.
        table: Calibration table: read if it exists, else written.
        listener: Hears of progress and notes.

    Raises:
        UsageError: What the recipe asks for cannot be had without an engine, or no target.
        ArtefactError: ``table`` is of something else.
        EdgeResError: As the stages do.
    """
    from edgeres.quantization.isolate import try_model

    onnx, output = Path(onnx), Path(output)
    listener = listener or Silent()
    recipe = _with_held_out(recipe, listener)
    rule_set = _rule_set(recipe.quantize, target)
    build = recipe.build.get(rule_set)
    if build is not None:
        device = device or build.device
        options = options or build.to_config("cpu").options
    rules = rules_of(rule_set, device, options=options, activations=recipe.quantize.activations)
    output = output_file(output, ".onnx", source=onnx)
    try_model(onnx)
    table = None if table is None else Path(table)
    user_table = CalibrationTable.load(table) if table is not None and table.is_file() else None
    table = table or output.with_suffix(".calibration.json")
    preprocess = _preprocess(recipe, onnx, user_table)
    images = open_dataset(data, split="calibration")
    if recipe.quantize.equalize:
        equalized = output.with_suffix(".equalized.onnx")
        int8.equalize(onnx, equalized)
        onnx = equalized
    if user_table is not None:
        calibrator = recipe.quantize.calibrator
        check_table(
            user_table, table, onnx, images=images, preprocess=preprocess, calibrator=calibrator
        )
    elif preprocess is not None:
        _calibrated(table, onnx, images, preprocess, recipe.quantize, listener)
    qat_path, training = None, recipe.quantize.qat
    if training is not None and preprocess is not None:
        qat_path = output.with_suffix(".trained.safetensors")
        int8.qat(
            onnx,
            table,
            qat_path,
            rules=rules,
            settings=recipe.quantize,
            training=training,
            train_data=_train_data(recipe),
            preprocess=preprocess,
            work=output.with_name(f"{output.stem}.qat"),
            classes=recipe.is_classifier,
            progress=bar(listener, "quantization-aware training"),
        )
    result = int8.quantize(
        onnx,
        table,
        output,
        rules=rules,
        settings=recipe.quantize,
        data=images,
        preprocess=preprocess,
        qat=qat_path,
    )
    return QuantizedFile(output, table, rule_set, result)


def _train_data(recipe: Recipe) -> str:
    return train_data_of(recipe, "quantization-aware training is asked for")


def _with_held_out(recipe: Recipe, listener: Listener) -> Recipe:
    """The recipe whose training holds out as many images as there are to hold out."""
    if recipe.quantize.qat is None:
        return recipe
    labels = training_labels(_train_data(recipe), needed=recipe.is_classifier)
    training, shortage = fit_qat(recipe.quantize.qat, labels)
    if shortage:
        listener.note(f"few images: {shortage}.")
    return recipe.override({"quantize.qat.held_out": training.held_out}, where="few images")


def _preprocess(recipe: Recipe, onnx: Path, named: CalibrationTable | None) -> Preprocess | None:
    """How images become numbers; ``None`` where no image is read and nobody said."""
    # Without a word of it, images become numbers as those of the table did.
    of_table = preprocess_of(named) if named is not None and recipe.preprocess is None else None
    settings = recipe.quantize
    reads_images = settings.qat is not None or settings.needs_images
    needed = named is None or recipe.preprocess is not None or reads_images
    return onnx_preprocess(recipe, onnx) if of_table is None and needed else of_table


def _calibrated(
    table: Path,
    onnx: Path,
    images: Dataset,
    preprocess: Preprocess,
    settings: QuantizeBlock,
    listener: Listener,
) -> None:
    """Sees to it that a table of this model, these images and this preprocessing lies there."""
    usable, why = kept_table(table, onnx, images, preprocess, settings.calibrator)
    if why:
        listener.note(f"{table} is not used but made anew: {why}.")
    if usable is None:
        int8.calibrate(
            onnx,
            table,
            data=images,
            samples=None,
            preprocess=preprocess,
            calibrator=settings.calibrator,
            progress=bar(listener, "calibrate"),
        )


def _rule_set(settings: QuantizeBlock, target: str | None) -> str:
    """Whose rules a file is quantized by; refuses what cannot be had without an engine."""
    if settings.precision != "int8":
        raise UsageError(
            f"the recipe's `quantize.precision` is {settings.precision}, so there is nothing to "
            "quantize.",
            hint="Use `edgeres build` on the FP32 model, or leave `precision:` out.",
        )
    if settings.mixed_precision is not None:
        raise UsageError(
            "the recipe's `quantize: {mixed_precision: ...}` is searched on built engines, which "
            "this command does not make.",
            hint="Use `edgeres convert`, or leave the block out.",
        )
    if settings.portable and target not in (None, PORTABLE):
        raise UsageError(
            f"the recipe says `portable: true` and --target says {target!r}.",
            hint="Leave one of them out.",
        )
    if settings.portable:
        return PORTABLE
    if target is None:
        raise UsageError("no target is named.", hint="Give --target, e.g. --target onnxruntime.")
    return target
