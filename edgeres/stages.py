"""One function a stage: files in, files out. The pipeline and the command line both call these.

Every function takes what it needs by name and loads its heavy parts when it is called.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgeres.backends import get_backend
from edgeres.backends.base import BuildConfig, Engine, QdqRules, ShapeRange
from edgeres.container_limits import usable_threads
from edgeres.data.bad_images import BadImages
from edgeres.data.preprocess import Preprocess
from edgeres.data.sampling import take, take_held_out
from edgeres.data.source import open_dataset
from edgeres.data.types import Dataset
from edgeres.errors import BackendMissingError, UsageError
from edgeres.files import write_atomic
from edgeres.progress import Advance
from edgeres.recipe import ExportBlock, PruneBlock, QatBlock, QuantizeBlock

if TYPE_CHECKING:
    from edgeres.layer_latency.predict import LatencyModel
    from edgeres.quantization.quantize import QuantizeResult
    from edgeres.quantization.sensitivity import Sensitivity
    from edgeres.quantization.table import CalibrationTable
    from edgeres.training.qat import QatResult
    from edgeres.training.run import TrainSummary
    from edgeres.training.settings import TrainSettings

CALIBRATION_BATCH = 32


def train(
    output: Path,
    *,
    settings: TrainSettings,
    data: str = "fashion-mnist",
    preprocess: Preprocess | None = None,
    start: Path | None = None,
    progress: Advance | None = None,
) -> TrainSummary:
    """Trains a network, or trains a checkpoint on, and tests the chosen epoch once.

    Args:
        output: Folder of the checkpoint, the resumable state, the log and the result.
        settings: Of the training run.
        data: Images, as after ``--data``; ``settings.held_out`` training images choose the epoch.
        preprocess: How an image becomes numbers; the start checkpoint's own where ``None``.
        start: Checkpoint to go on from; ``None`` trains from scratch.
        progress: Called with (steps done, steps in all).

    Raises:
        EdgeResError: See :func:`edgeres.training.run.train_and_test`.
    """
    from edgeres.models.checkpoint import load_checkpoint
    from edgeres.training.run import train_and_test

    first = load_checkpoint(start) if start else None
    return train_and_test(
        settings, data, output, start=first, preprocess=preprocess, progress=progress
    )


def prune(
    checkpoint: Path,
    output: Path,
    *,
    settings: PruneBlock,
    train_data: str,
    preprocess: Preprocess,
    work: Path,
    latency: LatencyModel | None = None,
    progress: Advance | None = None,
) -> dict[str, str]:
    """Prunes a checkpoint and fine-tunes it until its accuracy is back.

    Args:
        checkpoint: Dense network.
        output: Where the pruned ``.safetensors`` goes.
        settings: The recipe's ``prune:`` block.
        train_data: Training images, as after ``--data``.
        preprocess: How an image becomes numbers.
        work: Folder of the resumable training state and the log.
        latency: Of the dense network, for ``allocation: latency``.
        progress: Called with (steps done, steps in all).

    Returns:
        What is known of the pruned network, e.g. ``macs_ratio`` and ``held_out_top1``.

    Raises:
        EdgeResError: See :func:`edgeres.pruning.recover.prune_and_finetune`.
    """
    from dataclasses import replace

    from edgeres.models.checkpoint import load_checkpoint, save_checkpoint
    from edgeres.pruning.recover import prune_and_finetune
    from edgeres.training.split import split_held_out

    wanted = settings.to_settings()
    full = open_dataset(train_data, split="train")
    held_out = settings.finetune.held_out if settings.finetune else len(full) // 10
    learn, check = split_held_out(full.labels, held_out, wanted.seed)
    dense = replace(load_checkpoint(checkpoint), preprocess=preprocess)
    pruned = prune_and_finetune(
        dense,
        wanted,
        full.subset(learn.tolist()),
        full.subset(check.tolist()),
        work,
        latency=latency,
        progress=progress,
    )
    save_checkpoint(output, pruned)
    return {key: value for key, value in pruned.metadata.items() if key != "pruning"}


def export(
    checkpoint: Path, output: Path, *, image_size: tuple[int, int], settings: ExportBlock
) -> None:
    """Exports a checkpoint to FP32 ONNX in normal form and checks that both answer alike.

    Args:
        checkpoint: Dense or pruned network.
        output: Where the ``.onnx`` goes.
        image_size: Height and width that the network sees.
        settings: The recipe's ``export:`` block.

    Raises:
        GateError: The ONNX model answers differently from the torch module.
        EdgeResError: See :func:`edgeres.exporting.to_onnx.export_onnx`.
    """
    from edgeres.exporting.to_onnx import export_onnx
    from edgeres.models.checkpoint import load_checkpoint, load_module

    loaded = load_checkpoint(checkpoint)
    export_onnx(
        load_module(loaded),
        (loaded.plan.in_channels, *image_size),
        output,
        opset=settings.opset,
        dynamic_batch=settings.dynamic_batch,
    )


def calibrate(
    onnx: Path,
    output: Path,
    *,
    data: str,
    samples: int | None,
    preprocess: Preprocess,
    settings: QuantizeBlock,
    threads: int | None = None,
    bad: BadImages | None = None,
    progress: Advance | None = None,
) -> CalibrationTable:
    """Runs calibration images through an FP32 ONNX model and writes its calibration table.

    Args:
        onnx: FP32 model in normal form.
        output: Where the table (JSON) goes.
        data: Calibration images, as after ``--data``.
        samples: How many of them; ``None`` takes all.
        preprocess: How an image becomes numbers.
        settings: The recipe's ``quantize:`` block.
        threads: CPU threads of the forward pass.
        bad: Collects images that cannot be decoded; without it the first one is an error.
        progress: Called with (images done, images in all).

    Raises:
        EdgeResError: See :func:`edgeres.quantization.calibrate.calibrate`.
    """
    from edgeres.quantization.calibrate import calibrate as run

    dataset = take(open_dataset(data, split="calibration"), samples)
    table = run(
        onnx,
        _images(dataset, preprocess, bad),
        calibrator=settings.calibrator,
        threads=threads,
        progress=progress,
        total=len(dataset),
    )
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
    settings: QuantizeBlock,
    train_data: str,
    preprocess: Preprocess,
    work: Path,
    progress: Advance | None = None,
) -> QatResult:
    """Trains the INT8 form of an FP32 ONNX model and writes what it learned, for :func:`quantize`.

    Args:
        onnx: FP32 model in normal form.
        table: Calibration table of that model.
        output: Where weights and scales (``.safetensors``) go; the numbers of the training go to
            the same name with ``.json``.
        rules: Of the backend and device that will run it.
        settings: The recipe's ``quantize:`` block, with a ``qat:`` block in it.
        train_data: Training images, as after ``--data``.
        preprocess: How an image becomes numbers.
        work: Folder of the resumable training state and the log.
        progress: Called with (steps done, steps in all).

    Raises:
        EdgeResError: See :func:`edgeres.training.qat.train_quantized`.
    """
    from edgeres.quantization.table import CalibrationTable
    from edgeres.training.qat import train_quantized
    from edgeres.training.split import split_held_out

    training = (settings.qat or QatBlock()).to_settings()
    full = open_dataset(train_data, split="train")
    learn, check = split_held_out(full.labels, training.held_out, training.seed)
    result = train_quantized(
        onnx,
        CalibrationTable.load(table),
        rules,
        settings.to_settings(),
        training,
        full.subset(learn.tolist()),
        full.subset(check.tolist()),
        work,
        preprocess=preprocess,
        progress=progress,
    )
    result.trained.save(output)
    write_atomic(output.with_suffix(".json"), json.dumps(result.to_dict(), indent=1).encode())
    return result


def quantize(
    onnx: Path,
    table: Path,
    output: Path,
    *,
    rules: QdqRules,
    settings: QuantizeBlock,
    data: str | None = None,
    samples: int | None = None,
    preprocess: Preprocess | None = None,
    trained: Path | None = None,
) -> QuantizeResult:
    """Writes the Q/DQ model that one rule set asks for, and beside it what was done (JSON).

    Args:
        onnx: FP32 model in normal form; equalized already, if it is to be.
        table: Calibration table of that model.
        output: Where the Q/DQ ``.onnx`` goes; the account goes to the same name with ``.json``.
        rules: Of the backend and device that will run it.
        settings: The recipe's ``quantize:`` block.
        data: Calibration images, as after ``--data``; read only where ``settings`` measure on
            images.
        samples: How many of them were calibrated; ``None`` is all. Of these
            ``settings.measured_samples`` are used.
        preprocess: How an image becomes numbers; goes with ``data``.
        trained: What :func:`qat` learned under these rules; the numbers beside it go into the
            account.

    Raises:
        UsageError: ``settings`` measure on images and there are none.
        EdgeResError: See :func:`edgeres.quantization.quantize.quantize`.
    """
    from edgeres.quantization.quantize import quantize as run
    from edgeres.quantization.table import CalibrationTable
    from edgeres.quantization.trained import TrainedParameters

    wanted = settings.to_settings()
    images = None
    if trained is None and wanted.needs_images and data is not None and preprocess is not None:
        full = take(open_dataset(data, split="calibration"), samples)
        few = take(full, min(settings.measured_samples, len(full)))
        # Calibration has read the same images and told of bad ones.
        images = np.concatenate(list(_images(few, preprocess, BadImages(1.0))))
    learned = None if trained is None else TrainedParameters.load(trained)
    result = run(
        onnx, CalibrationTable.load(table), rules, output, wanted, images=images, trained=learned
    )
    account = {"rules": rules.to_dict(), **result.to_dict()}
    if trained is not None:
        account["qat"] = json.loads(trained.with_suffix(".json").read_text())
    write_atomic(output.with_suffix(".json"), json.dumps(account, indent=1).encode())
    return result


def sensitivity(
    onnx: Path,
    *,
    rules: QdqRules,
    data: str,
    samples: int,
    preprocess: Preprocess,
    settings: QuantizeBlock,
    table: Path | None = None,
    all_but: bool = False,
    threads: int | None = None,
    progress: Advance | None = None,
) -> Sensitivity:
    """Measures what quantizing each layer alone does to the logits, in simulation.

    Args:
        onnx: FP32 model in normal form; equalized first, where ``settings`` say so.
        rules: Of the backend and device that will run it.
        data: Calibration images, as after ``--data``. The last ``samples`` of them (with the
            classes in turn) are measured on, and the others calibrate.
        samples: How many images to measure on.
        preprocess: How an image becomes numbers.
        settings: The recipe's ``quantize:`` block; rounding is to nearest and the bias correction
            analytic, whatever it says.
        table: Calibration table of the (equalized) model; made from the other images where
            ``None``.
        all_but: Also quantize everything but each layer.
        threads: CPU threads; ``None`` leaves the choice to ONNX Runtime.
        progress: Called with (models run, models in all).

    Raises:
        DataError: Too few images.
        EdgeResError: See :func:`edgeres.quantization.sensitivity.sensitivity`.
    """
    from edgeres.quantization.calibrate import calibrate as make_table
    from edgeres.quantization.sensitivity import sensitivity as run
    from edgeres.quantization.table import CalibrationTable

    if settings.equalize:
        with tempfile.TemporaryDirectory() as folder:
            equalized = Path(folder) / "model.onnx"
            equalize(onnx, equalized)
            return sensitivity(
                equalized,
                rules=rules,
                data=data,
                samples=samples,
                preprocess=preprocess,
                settings=settings.model_copy(update={"equalize": False}),
                table=table,
                all_but=all_but,
                threads=threads,
                progress=progress,
            )
    dataset = open_dataset(data, split="calibration")
    held_out = take_held_out(dataset, max(0, len(dataset) - samples), samples)
    if table is not None:
        known = CalibrationTable.load(table)
    else:
        others = take(dataset, len(dataset) - samples)
        known = make_table(
            onnx, _images(others, preprocess, None), calibrator=settings.calibrator, threads=threads
        )
    return run(
        onnx,
        known,
        rules,
        np.concatenate(list(_images(held_out, preprocess, None))),
        held_out.labels if (held_out.labels >= 0).all() else None,
        settings=settings.to_settings(),
        all_but=all_but,
        threads=threads,
        progress=progress,
    )


def build(
    onnx: Path,
    output: Path,
    *,
    target: str,
    device: str = "cpu",
    threads: int | None = None,
    options: Mapping[str, str] | None = None,
    shapes: Mapping[str, ShapeRange] | None = None,
    limited: bool = False,
) -> Engine:
    """Builds an engine from an FP32 or Q/DQ ONNX file.

    Args:
        onnx: Model whose precision lies in the graph.
        output: Engine file without its suffix; the backend's own is added.
        target: Backend name.
        device: ``cpu`` or ``cuda:N``.
        threads: Intra-op threads; ``None`` leaves the choice to the runtime.
        options: The backend's own options by name, as text.
        shapes: Shape range by input name, for backends that specialize; under ``""`` that of the
            only input.
        limited: Whether to build in a child process, for a model from elsewhere.

    Raises:
        BackendMissingError: The backend is not installed.
        UsageError: An option or a shape range that the backend does not take.
        EdgeResError: See :meth:`edgeres.backends.base.Backend.build`.
    """
    backend = get_backend(target)
    reason = backend.missing()
    if reason is not None:
        raise BackendMissingError(reason)
    path = output.with_name(output.name + backend.engine_suffix)
    config = BuildConfig(device, threads, _named(shapes or {}, onnx), options or {})
    if limited:
        from edgeres.backends.limited import build_limited

        return build_limited(onnx, path, target, config)
    return backend.build(onnx, path, config)


def _named(shapes: Mapping[str, ShapeRange], onnx: Path) -> dict[str, ShapeRange]:
    """Gives a range without a name that of the model's only input."""
    if "" not in shapes:
        return dict(shapes)
    from edgeres.onnx_info import summarize

    names = [spec.name for spec in summarize(onnx).inputs]
    if len(names) != 1:
        raise UsageError(
            f"{onnx}: has the inputs {', '.join(names)}, and a shape range names none of them.",
            hint="Put the input's name and = before it.",
        )
    return {name or names[0]: chosen for name, chosen in shapes.items()}


def _images(
    dataset: Dataset, preprocess: Preprocess, bad: BadImages | None
) -> Iterator[NDArray[np.float32]]:
    from edgeres.data.batches import batches

    workers = usable_threads()
    for images, _ in batches(dataset, preprocess, CALIBRATION_BATCH, workers=workers, bad=bad):
        yield images
