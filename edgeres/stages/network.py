"""One function a stage: files in, files out. The pipeline and the command line both call these.

Every function takes what it needs by name and loads its heavy parts when it is called. The stages
that lead from FP32 to INT8 are in :mod:`edgeres.stages.int8`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from edgeres.backends.base import BuildConfig, Engine, ShapeRange
from edgeres.backends.fit import installed_backend
from edgeres.data.bad_images import first_image
from edgeres.data.class_order import in_order_of
from edgeres.data.preprocess import Layout, Preprocess, PreprocessLike
from edgeres.data.source import open_dataset
from edgeres.errors import UsageError
from edgeres.pruning.summary import PruneSummary
from edgeres.recipe.prune import PruneSettings
from edgeres.recipe.recipe import ExportSettings
from edgeres.system.files import StrPath, output_file
from edgeres.system.progress import ProgressCallback

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgeres.layer_latency.bench import NetworkBench
    from edgeres.layer_latency.device import LatencyTarget
    from edgeres.layer_latency.predict import LatencyModel
    from edgeres.recipe.training import TrainSettings
    from edgeres.training.run import TrainSummary

DENSE, LATENCY_TABLE = "dense.onnx", "latency_table.json"


def train(
    output: StrPath,
    *,
    settings: TrainSettings,
    data: str = "fashion-mnist",
    preprocess: PreprocessLike | None = None,
    start: StrPath | None = None,
    progress: ProgressCallback | None = None,
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
    output = Path(output)
    start = None if start is None else Path(start)
    from edgeres.models.checkpoint import load_checkpoint
    from edgeres.training.run import train_and_test

    first = load_checkpoint(start) if start else None
    prepared = None if preprocess is None else preprocess.complete()
    return train_and_test(
        settings, data, output, start=first, preprocess=prepared, progress=progress
    )


def prune(
    checkpoint: StrPath,
    output: StrPath,
    *,
    settings: PruneSettings,
    train_data: str,
    preprocess: PreprocessLike,
    work: StrPath,
    latency: LatencyModel | None = None,
    bench: NetworkBench | None = None,
    latency_on: LatencyTarget | None = None,
    measuring: ProgressCallback | None = None,
    threads: int | None = None,
    progress: ProgressCallback | None = None,
) -> PruneSummary:
    """Prunes a checkpoint and fine-tunes it until its accuracy is back.

    Args:
        checkpoint: Dense network.
        output: Where the pruned ``.safetensors`` goes.
        settings: The recipe's ``prune:`` block.
        train_data: Training images, as after ``--data``.
        preprocess: How an image becomes numbers.
        work: Folder of the resumable training state and the log.
        latency: Of the dense network, for ``allocation: latency``.
        bench: Where widths by latency are measured before they are kept.
        latency_on: Where to make both, instead: the dense network is exported and its layers are
            measured in ``work``.
        measuring: Called with (layer shapes measured, shapes in all), for ``latency_on``.
        threads: CPU threads of importance, reconstruction and training; torch's own number where
            ``None``. What the settings say of a training goes before it.
        progress: Called with (steps done, steps in all).

    Returns:
        What is known of the pruned network.

    Raises:
        EdgeResError: See :func:`edgeres.pruning.recover.prune_and_finetune`.
    """
    checkpoint = Path(checkpoint)
    output = Path(output)
    work = Path(work)
    from dataclasses import replace

    from edgeres.models.checkpoint import load_checkpoint, save_checkpoint
    from edgeres.pruning.recover import prune_and_finetune
    from edgeres.pruning.rounds import held_out_count
    from edgeres.training.device import cpu_threads
    from edgeres.training.split import split_held_out

    prepared = preprocess.complete()
    dense = replace(load_checkpoint(checkpoint), preprocess=prepared)
    full = in_order_of(open_dataset(train_data, split="train"), dense.class_names).dataset
    held_out = held_out_count(settings, len(full))
    learn, check = split_held_out(full.labels, held_out, settings.seed)
    if latency_on is not None and settings.allocation == "latency" and latency is None:
        sample = first_image(full)
        size = prepared.output_size(sample.height, sample.width)
        work.mkdir(parents=True, exist_ok=True)
        export(checkpoint, work / DENSE, image_size=size, settings=ExportSettings())
        latency = latency_on.model(work / DENSE, work / LATENCY_TABLE, measuring)
        bench = latency_on.bench(work / DENSE, latency)
    with cpu_threads(threads):
        pruned = prune_and_finetune(
            dense,
            settings,
            full.subset(learn.tolist()),
            full.subset(check.tolist()),
            work,
            latency=latency,
            bench=bench,
            progress=progress,
        )
    save_checkpoint(output, pruned)
    return PruneSummary.of(pruned.metadata, str(output))


def export(
    checkpoint: StrPath,
    output: StrPath,
    *,
    image_size: tuple[int, int],
    settings: ExportSettings,
    images: NDArray[np.float32] | None = None,
) -> None:
    """Exports a checkpoint to FP32 ONNX in normal form and checks that both answer alike.

    Args:
        checkpoint: Dense or pruned network.
        output: Where the ``.onnx`` goes.
        image_size: Height and width that the network sees; of a line, anything and its length.
        settings: The recipe's ``export:`` block.
        images: Real preprocessed images ``(M, C, H, W) float32`` on which both are compared, beside
            random ones.

    Raises:
        GateError: The ONNX model answers differently from the torch module.
        UsageError: An input of bytes, which only engines get.
        EdgeResError: See :func:`edgeres.exporting.to_onnx.export_onnx`.
    """
    if settings.input != "float":
        raise UsageError(
            "an exported network is fed floats; `input: uint8` is for engines.",
            hint="`edgeres convert --input uint8` makes them.",
        )
    checkpoint = Path(checkpoint)
    output = Path(output)
    from edgeres.exporting.to_onnx import export_onnx
    from edgeres.models.checkpoint import load_checkpoint, load_module
    from edgeres.models.resnet import with_lines

    loaded = load_checkpoint(checkpoint)
    module, shape = with_lines(load_module(loaded)), loaded.plan.sample_shape(*image_size)
    del loaded  # its weights are the module's now
    export_onnx(
        module,
        shape,
        output,
        opset=settings.opset,
        dynamic_batch=settings.dynamic_batch,
        images=images,
    )


def take_pixels(
    onnx: Path,
    output: Path,
    *,
    preprocess: Preprocess,
    layout: Layout,
    images: NDArray[np.float32] | None = None,
) -> None:
    """Puts the preprocessing of an FP32 model into it: it is fed pixels of 0 to 255 as they are.

    Args:
        onnx: FP32 model in normal form.
        output: Where the other form goes.
        preprocess: How an image becomes numbers for ``onnx``.
        layout: Of the pixels.
        images: Real pixels ``(M, *layout) float32`` on which both are compared.

    Raises:
        EdgeResError: See :func:`edgeres.exporting.byte_input.write_byte_network`.
    """
    from edgeres.exporting.byte_input import write_byte_network

    write_byte_network(onnx, output, preprocess, layout, images)


def build(
    onnx: StrPath,
    output: StrPath,
    *,
    target: str,
    device: str = "cpu",
    threads: int | None = None,
    options: Mapping[str, str] | None = None,
    shapes: Mapping[str, ShapeRange] | None = None,
    isolate: bool = False,
    progress: ProgressCallback | None = None,
) -> Engine:
    """Builds an engine from an FP32 or Q/DQ ONNX file.

    Args:
        onnx: Model whose precision lies in the graph.
        output: Engine file; the backend's suffix is added if it is not there.
        target: Backend name.
        device: ``cpu``, ``cuda:N``, ``gpu:N`` or ``npu``.
        threads: Intra-op threads; ``None`` leaves the choice to the runtime.
        options: The backend's own options by name, as text.
        shapes: Shape range by input name, for backends that specialize; under ``""`` that of the
            only input.
        isolate: Whether to build in a child process, for a model from elsewhere.
        progress: Called with (steps done, steps known so far) by backends whose builders tell them;
            not with ``isolate``.

    Raises:
        BackendMissingError: The backend is not installed.
        UsageError: An option or a shape range that the backend does not take, or ``output`` is
            the model itself.
        EdgeResError: See :meth:`edgeres.backends.base.Backend.build`.
    """
    onnx = Path(onnx)
    output = Path(output)
    backend = installed_backend(target)
    path = output_file(output, backend.engine_suffix, source=onnx)
    config = BuildConfig(device, threads, _named(shapes or {}, onnx), options or {})
    if isolate:
        from edgeres.backends.isolate import build_isolated

        return build_isolated(onnx, path, target, config)
    return backend.build(onnx, path, config, progress=progress)


def _named(shapes: Mapping[str, ShapeRange], onnx: Path) -> dict[str, ShapeRange]:
    """Gives a range without a name that of the model's only input."""
    if "" not in shapes:
        return dict(shapes)
    from edgeres.graph.summary import summarize

    names = [spec.name for spec in summarize(onnx).inputs]
    if len(names) != 1:
        raise UsageError(
            f"{onnx}: has the inputs {', '.join(names)}, and a shape range names none of them.",
            hint="Put the input's name and = before it.",
        )
    return {name or names[0]: shape for name, shape in shapes.items()}
