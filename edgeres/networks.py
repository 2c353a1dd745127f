"""The first half of a run: from the trained network to FP32 ONNX, dense and (if asked) pruned."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeres.data.bad_images import BadImages
from edgeres.data.checks import check_classes
from edgeres.data.preprocess import Preprocess
from edgeres.data.source import training_fingerprint
from edgeres.data.types import Dataset
from edgeres.environment import package_versions
from edgeres.errors import DataError, UsageError
from edgeres.files import file_sha256
from edgeres.onnx_info import ModelSummary, summarize
from edgeres.progress import Advance
from edgeres.recipe import Recipe
from edgeres.run import Run
from edgeres.source import (
    CHECKPOINT,
    FACTS,
    ONNX,
    ModelFacts,
    Source,
    choose_preprocess,
    load_source,
)
from edgeres.stages import export, prune

if TYPE_CHECKING:
    from PIL import Image

FINETUNE_LOG = "train_log.jsonl"


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


@dataclass(frozen=True)
class Networks:
    """What the first half of a run gives to the second."""

    facts: ModelFacts
    preprocess: Preprocess
    dense: Network
    pruned: Network | None

    @property
    def final(self) -> Network:
        """The network that is quantized."""
        return self.pruned or self.dense


def prepare_networks(run: Run, source: Source, validation: Dataset) -> Networks:
    """Loads, prunes and exports, as the recipe says.

    Args:
        run: The run.
        source: The trained network.
        validation: The whole validation set: its classes must be the network's, and its first
            image tells the size that the network sees.

    Raises:
        EdgeResError: As the stages do.
    """
    recipe = run.recipe
    if recipe.prune is not None and source.kind == "onnx":
        raise UsageError(
            "an ONNX file cannot be pruned: pruning fine-tunes, which needs the torch checkpoint.",
            hint="Give the checkpoint, or leave `prune:` out.",
        )
    layout = recipe.preprocess.layout if recipe.preprocess else "nchw"
    loaded = run.stage(
        "load",
        inputs={"model": source.sha256},
        settings={
            "kind": source.kind,
            "architecture": source.architecture,
            "num_classes": source.num_classes,
            "layout": layout if source.kind == "onnx" else None,
            "name": source.path.stem if source.kind == "onnx" else None,
        },
        produce=lambda folder, *_: load_source(source, folder, layout=layout),
    )
    facts = ModelFacts.load(loaded.file(FACTS))
    for note in facts.notes:
        run.warn_once(f"{facts.name}: {note}")
    preprocess = choose_preprocess(recipe.preprocess, facts)
    check_classes(validation, facts.num_classes)
    if source.kind == "onnx":
        return Networks(facts, preprocess, _network("dense", loaded.file(ONNX), None), None)
    checkpoint = loaded.file(CHECKPOINT)
    sample = _first_image(validation)
    size = preprocess.output_size(sample.height, sample.width)
    dense = _export(run, "dense", checkpoint, size)
    if recipe.prune is None:
        return Networks(facts, preprocess, dense, None)
    pruned = _export(run, "pruned", _prune(run, checkpoint, preprocess), size)
    return Networks(facts, preprocess, dense, pruned)


def _first_image(images: Dataset) -> Image.Image:
    """The first image that can be decoded; a bad one does not hide the size of the others."""
    bad = BadImages()
    for index in range(len(images)):
        try:
            return images.image(index)
        except DataError as error:
            bad.add(images.image_name(index), error, len(images))
    raise DataError(f"{images.name}: no image can be decoded.", hint="Repair the data set.")


def _prune(run: Run, checkpoint: Path, preprocess: Preprocess) -> Path:
    settings, train_data = run.recipe.prune, _train_data(run.recipe)
    assert settings is not None

    def produce(folder: Path, work: Path, progress: Advance) -> None:
        prune(
            checkpoint,
            folder / CHECKPOINT,
            settings=settings,
            train_data=train_data,
            preprocess=preprocess,
            work=work,
            progress=progress,
        )
        for log in sorted(work.rglob(FINETUNE_LOG)):
            shutil.copyfile(log, folder / "-".join(log.relative_to(work).parts))

    return run.stage(
        "prune",
        inputs={
            "checkpoint": file_sha256(checkpoint),
            "train_data": training_fingerprint(train_data),
        },
        settings={"prune": settings.model_dump(), "preprocess": preprocess.to_dict()},
        produce=produce,
        label="prune and fine-tune",
    ).file(CHECKPOINT)


def _export(run: Run, label: str, checkpoint: Path, size: tuple[int, int]) -> Network:
    settings = run.recipe.export
    result = run.stage(
        "export",
        inputs={"checkpoint": file_sha256(checkpoint)},
        settings={
            "image_size": list(size),
            "versions": package_versions(("torch", "onnx", "onnx-ir")),
            **settings.model_dump(),
        },
        produce=lambda folder, *_: export(
            checkpoint, folder / ONNX, image_size=size, settings=settings
        ),
        label=f"export ({label})",
    )
    return _network(label, result.file(ONNX), checkpoint)


def _network(label: str, onnx: Path, checkpoint: Path | None) -> Network:
    return Network(label, onnx, file_sha256(onnx), summarize(onnx), checkpoint)


def _train_data(recipe: Recipe) -> str:
    if recipe.data.train is None:
        raise UsageError(
            "pruning fine-tunes, and the recipe names no training images.",
            hint="Set `data: {train: ...}` or give --train-data.",
        )
    return recipe.data.train
