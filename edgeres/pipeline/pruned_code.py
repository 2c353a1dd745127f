"""Pruning of a network that code makes: in a child process, and on as ONNX."""

from __future__ import annotations

from pathlib import Path

from edgeres.data.preprocess import Preprocess
from edgeres.data.source import training_fingerprint
from edgeres.errors import ModelError
from edgeres.evaluation import run_folder
from edgeres.pipeline.find_source import Source
from edgeres.pipeline.module_source import module_of
from edgeres.pipeline.network import Network, network_of, train_data_of
from edgeres.pipeline.run import Run
from edgeres.pipeline.source import CHECKPOINT, TRACED, import_file
from edgeres.pruning.of_code import prune_code
from edgeres.system.environment import package_versions
from edgeres.system.files import file_sha256
from edgeres.system.progress import ProgressCallback


def prune_source(run: Run, source: Source, dense: Network, preprocess: Preprocess) -> Network:
    """The pruned network of a module that code makes.

    Raises:
        EdgeResError: As :func:`edgeres.pruning.of_code.prune_code`.
    """
    settings, train_data = run.recipe.prune, train_data_of(run.recipe, "pruning fine-tunes")
    assert settings is not None
    sizes = [size for size in dense.summary.inputs[0].shape[1:] if size is not None]
    if len(sizes) != 3:
        raise ModelError("Expected a network of one image size.", hint="Give --input-size.")
    sample = (sizes[0], sizes[1], sizes[2])

    def produce(folder: Path, work: Path, progress: ProgressCallback) -> None:
        prune_code(
            module_of(source),
            folder / TRACED,
            folder / CHECKPOINT,
            settings=settings,
            train_data=train_data,
            preprocess=preprocess,
            sample_shape=sample,
            classes=source.classes,
            class_names=source.labels,
            work=work,
            progress=progress,
        )

    pruned = run.stage(
        "prune",
        inputs={
            "model": source.sha256,
            "train_data": training_fingerprint(train_data, run.hashes),
        },
        settings={
            "prune": settings.key(),
            "preprocess": preprocess.to_dict(),
            "sample": list(sample),
            "classes": source.classes,
            **({"class_names": list(source.labels)} if source.labels else {}),
        },
        produce=produce,
        label="prune and fine-tune",
    )
    traced = pruned.file(TRACED)
    imported = run.stage(
        "export",
        inputs={"traced": file_sha256(traced)},
        settings={"versions": package_versions(("torch", "onnxscript"))},
        produce=lambda folder, *_: _import(source, traced, folder),
        label="export (pruned)",
    )
    return network_of("pruned", imported.file(run_folder.MODEL), pruned.file(CHECKPOINT))


def _import(source: Source, traced: Path, folder: Path) -> None:
    import_file(
        traced,
        folder / run_folder.MODEL,
        layout="nchw",
        outputs=source.outputs,
        classes=source.classes,
    )
