"""The stages that lead from FP32 to INT8, one function each: files in, files out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgeres.backends.base import QdqRules
from edgeres.data.bad_images import BadImages
from edgeres.data.class_order import in_order_of
from edgeres.data.preprocess import Preprocess, PreprocessLike
from edgeres.data.sampling import take, take_held_out
from edgeres.data.source import open_dataset
from edgeres.data.types import Dataset
from edgeres.recipe.quantize import Calibrator, QuantizeBlock, QuantizeSettings
from edgeres.recipe.training import QatSettings
from edgeres.system.container_limits import usable_threads
from edgeres.system.files import StrPath, write_atomic
from edgeres.system.progress import ProgressCallback
from edgeres.system.stored_json import read_stored
from edgeres.system.temporary import temporary_folder

if TYPE_CHECKING:
    from edgeres.quantization.quantize import QuantizeResult
    from edgeres.quantization.sensitivity import Sensitivity
    from edgeres.quantization.table import CalibrationTable
    from edgeres.tasks.task import Task
    from edgeres.training.qat import QatResult

CALIBRATION_BATCH = 32


def calibrate(
    onnx: StrPath,
    output: StrPath,
    *,
    data: str | Dataset,
    samples: int | None,
    preprocess: PreprocessLike,
    calibrator: Calibrator = "output",
    threads: int | None = None,
    skipped: BadImages | None = None,
    progress: ProgressCallback | None = None,
) -> CalibrationTable:
    """Runs calibration images through an FP32 ONNX model and writes its calibration table.

    Args:
        onnx: FP32 model in normal form.
        output: Where the table (JSON) goes.
        data: Calibration images: a data set, or what stands after ``--data``.
        samples: How many of them; ``None`` takes all.
        preprocess: How an image becomes numbers.
        calibrator: Whose ranges the table has besides those that are always there.
        threads: CPU threads of the forward pass.
        skipped: Collects images that cannot be decoded; without it the first one is an error.
        progress: Called with (images done, images in all).

    Raises:
        EdgeResError: See :func:`edgeres.quantization.calibrate.calibrate`.
    """
    prepared = preprocess.complete()
    onnx = Path(onnx)
    output = Path(output)
    from edgeres.quantization.calibrate import calibrate as run
    from edgeres.stages.table_origin import TableOrigin

    dataset = take(_opened(data), samples)
    table = run(
        onnx,
        _images(dataset, prepared, skipped),
        calibrator=calibrator,
        threads=threads,
        progress=progress,
        total=len(dataset),
    )
    table = replace(table, made_from=TableOrigin.now(dataset, prepared).to_dict())
    table.save(output)
    return table


def equalize(onnx: Path, output: Path) -> None:
    """Writes the FP32 model with the channels inside its blocks brought to like size.

    Args:
        onnx: FP32 model in normal form.
        output: Where the equalized ``.onnx`` goes: the same function, the same names.

    Raises:
        EdgeResError: See :func:`edgeres.quantization.equalize.equalize`.
    """
    from edgeres.quantization.equalize import equalize as run

    run(onnx, output)


def qat(
    onnx: Path,
    table: Path,
    output: Path,
    *,
    rules: QdqRules,
    settings: QuantizeSettings,
    training: QatSettings,
    train_data: str,
    preprocess: PreprocessLike,
    work: Path,
    classes: bool = True,
    class_names: Sequence[str] = (),
    progress: ProgressCallback | None = None,
) -> QatResult:
    """Trains the INT8 form of an FP32 ONNX model and writes what it learned, for :func:`quantize`.

    Args:
        onnx: FP32 model in normal form.
        table: Calibration table of that model.
        output: Where weights and scales (``.safetensors``) go; the numbers of the training go to
            the same name with ``.json``.
        rules: Of the backend and device that will run it.
        settings: How the start is quantized.
        training: The recipe's ``quantize.qat:`` block.
        train_data: Training images, as after ``--data``.
        preprocess: How an image becomes numbers.
        work: Folder of the resumable training state and the log.
        classes: Whether the network is a classifier, whose images have labels.
        class_names: Of its classes in the order of its scores, where they are known.
        progress: Called with (steps done, steps in all).

    Raises:
        EdgeResError: See :func:`edgeres.training.qat.train_quantized`.
    """
    prepared = preprocess.complete()
    from edgeres.quantization.table import CalibrationTable
    from edgeres.training.qat import train_quantized
    from edgeres.training.split import split_held_out

    images = open_dataset(train_data, split="train", labels_needed=classes)
    full = in_order_of(images, class_names).dataset if classes else images
    learn, check = split_held_out(full.labels, training.held_out, training.seed)
    result = train_quantized(
        onnx,
        CalibrationTable.load(table),
        rules,
        settings,
        training,
        full.subset(learn.tolist()),
        full.subset(check.tolist()),
        work,
        preprocess=prepared,
        classes=classes,
        progress=progress,
    )
    result.parameters.save(output)
    write_atomic(summary_path(output), json.dumps(result.to_dict(), indent=1).encode())
    return result


def quantize(
    onnx: StrPath,
    table: StrPath,
    output: StrPath,
    *,
    rules: QdqRules,
    settings: QuantizeSettings,
    data: str | Dataset | None = None,
    samples: int | None = None,
    preprocess: PreprocessLike | None = None,
    qat: StrPath | None = None,
) -> QuantizeResult:
    """Writes the Q/DQ model that one rule set asks for, and beside it what was done (JSON).

    Args:
        onnx: FP32 model in normal form; equalized already, if it is to be.
        table: Calibration table of that model.
        output: Where the Q/DQ ``.onnx`` goes; the account goes to the same name with ``.json``.
        rules: Of the backend and device that will run it.
        settings: The recipe's ``quantize:`` block.
        data: Calibration images, as for :func:`calibrate`; read only where ``settings`` measure on
            images.
        samples: How many of them were calibrated; ``None`` is all. Of these
            ``settings.measured_samples`` are used.
        preprocess: How an image becomes numbers; goes with ``data``.
        qat: What training learned under these rules; the numbers beside it go into the account.

    Raises:
        UsageError: ``settings`` measure on images and there are none.
        EdgeResError: See :func:`edgeres.quantization.quantize.quantize`.
    """
    prepared = None if preprocess is None else preprocess.complete()
    onnx = Path(onnx)
    table = Path(table)
    output = Path(output)
    qat = None if qat is None else Path(qat)
    from edgeres.quantization.account import write_account
    from edgeres.quantization.qat_parameters import QatParameters
    from edgeres.quantization.quantize import quantize as run
    from edgeres.quantization.table import CalibrationTable
    from edgeres.training.summary import QatSummary

    images = None
    if qat is None and settings.needs_images and data is not None and prepared is not None:
        dataset = take(_opened(data), samples)
        measured_on = take(dataset, min(settings.measured_samples, len(dataset)))
        # Calibration has read the same images and told of bad ones.
        images = np.concatenate(list(_images(measured_on, prepared, BadImages(1.0))))
    learned = None if qat is None else QatParameters.load(qat)
    result = run(
        onnx, CalibrationTable.load(table), rules, output, settings, images=images, qat=learned
    )
    numbers = None if qat is None else read_stored(summary_path(qat), QatSummary).to_dict()
    write_account(output, rules, result, numbers)
    return result


def summary_path(learned: Path) -> Path:
    """Where the numbers of a training lie, beside what it learned."""
    return learned.with_suffix(".json")


def sensitivity(
    onnx: StrPath,
    *,
    rules: QdqRules,
    data: str | Dataset,
    samples: int,
    preprocess: PreprocessLike,
    settings: QuantizeBlock,
    task: Task | None = None,
    metric: str = "",
    table: StrPath | None = None,
    all_but: bool = False,
    threads: int | None = None,
    progress: ProgressCallback | None = None,
) -> Sensitivity:
    """Measures what quantizing each layer alone does to the outputs, in simulation.

    Args:
        onnx: FP32 model in normal form; equalized first, where ``settings`` say so.
        rules: Of the backend and device that will run it.
        data: Calibration images, as for :func:`calibrate`. The last ``samples`` of them (with the
            classes in turn) are measured on, and the others calibrate.
        samples: How many images to measure on.
        preprocess: How an image becomes numbers.
        settings: The recipe's ``quantize:`` block; rounding is to nearest and the bias correction
            analytic, whatever it says.
        task: What the outputs mean; ``None`` for a classifier.
        metric: Name of the figure that is measured beside the noise, where the samples have
            targets; empty takes the first that the task gates.
        table: Calibration table of the (equalized) model; made from the other images where
            ``None``.
        all_but: Also quantize everything but each layer.
        threads: CPU threads; ``None`` takes as many as there are CPUs.
        progress: Called with batches run and batches in all, of all models.

    Raises:
        DataError: Too few images.
        ArtefactError: ``table`` is of another model or preprocessing.
        EdgeResError: See :func:`edgeres.quantization.sensitivity.sensitivity`.
    """
    prepared = preprocess.complete()
    onnx = Path(onnx)
    table = None if table is None else Path(table)
    from edgeres.quantization.calibrate import calibrate as make_table
    from edgeres.quantization.sensitivity import sensitivity as run
    from edgeres.quantization.table import CalibrationTable
    from edgeres.stages.judged_by import judged_by
    from edgeres.stages.table_origin import check_table

    if settings.equalize:
        with temporary_folder() as folder:
            equalized = folder / "model.onnx"
            equalize(onnx, equalized)
            return sensitivity(
                equalized,
                rules=rules,
                data=data,
                samples=samples,
                preprocess=prepared,
                settings=settings.replace(equalize=False),
                task=task,
                metric=metric,
                table=table,
                all_but=all_but,
                threads=threads,
                progress=progress,
            )
    dataset = _opened(data)
    held_out = take_held_out(dataset, max(0, len(dataset) - samples), samples)
    if table is not None:
        calibration = CalibrationTable.load(table)
        check_table(
            calibration,
            table,
            onnx,
            images=None,
            preprocess=prepared,
            calibrator=settings.calibrator,
        )
    else:
        others = take(dataset, len(dataset) - samples)
        calibration = make_table(
            onnx, _images(others, prepared, None), calibrator=settings.calibrator, threads=threads
        )
    return run(
        onnx,
        calibration,
        rules,
        np.concatenate(list(_images(held_out, prepared, None))),
        judged_by(held_out, prepared, task, metric),
        classes=task is None,
        settings=settings,
        all_but=all_but,
        threads=threads,
        progress=progress,
    )


def _opened(data: str | Dataset) -> Dataset:
    """Calibration images: those of a run are opened once, those of a command are named."""
    return open_dataset(data, split="calibration") if isinstance(data, str) else data


def _images(
    dataset: Dataset, preprocess: Preprocess, skipped: BadImages | None
) -> Iterator[NDArray[np.float32]]:
    from edgeres.data.batches import batches

    workers = usable_threads()
    for images, _ in batches(
        dataset, preprocess, CALIBRATION_BATCH, workers=workers, skipped=skipped
    ):
        yield images
