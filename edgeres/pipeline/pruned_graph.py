"""Pruning of a network that is there as a graph alone: an ONNX file, or what became one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeres.data.preprocess import Preprocess
from edgeres.data.source import open_dataset, training_fingerprint
from edgeres.data.types import Dataset
from edgeres.errors import DataError, UsageError
from edgeres.evaluation import run_folder
from edgeres.pipeline.find_source import Source, check_graph_pruning
from edgeres.pipeline.network import Network, network_of, train_data_of
from edgeres.pipeline.run import Run
from edgeres.pipeline.source import ModelFacts, choose_preprocess, import_file
from edgeres.pruning.summary import PruneSummary
from edgeres.recipe.prune import PruneSettings
from edgeres.recipe.recipe import Recipe
from edgeres.stages.sample_counts import fit_pruning, training_labels
from edgeres.system.files import StrPath, output_file
from edgeres.system.progress import Listener, ProgressCallback, Silent, bar

_FIGURES = "pruned.json"
_DENSE = "dense.onnx"
_JUDGED, _JUDGING_PART = 2000, 5


def untrained(settings: PruneSettings) -> PruneSettings:
    """The same without any training, for who has no training images."""
    return settings.replace(finetune=None, epochs_between=0, sparse=None)


def prune_graph(
    run: Run, source: Source, dense: Network, preprocess: Preprocess, calibration: Dataset
) -> Network:
    """The pruned network of a graph, reconstructed from calibration images.

    Training images, where the recipe names any, win accuracy back.

    Raises:
        UsageError: The recipe asks for training and names no images for it.
        EdgeResError: As :func:`edgeres.pruning.of_onnx.prune_onnx`.
    """
    settings, train = run.recipe.prune, run.recipe.data.train
    assert settings is not None
    if train is None:
        if settings.finetune is not None and "finetune" in settings.model_fields_set:
            train_data_of(run.recipe, "`prune: {finetune: ...}` trains")
        settings = untrained(settings)
        run.listener.note("no training images: layers are reconstructed, nothing is trained.")
    learned = settings

    def produce(folder: Path, work: Path, progress: ProgressCallback) -> None:
        out = folder / run_folder.MODEL
        summary = _pruned(
            dense.onnx, out, learned, preprocess, calibration, train, work,
            classes=source.classes, class_names=source.labels, progress=progress,
        )  # fmt: skip
        (folder / _FIGURES).write_text(summary.to_json())

    images = (
        {"images": calibration.fingerprint}
        if train is None
        else {"train_data": training_fingerprint(train, run.hashes)}
    )
    result = run.stage(
        "prune",
        inputs={"model": dense.sha256, **images},
        settings={
            "prune": settings.key(),
            "preprocess": preprocess.to_dict(),
            "classes": source.classes,
            **({"class_names": list(source.labels)} if source.labels else {}),
        },
        produce=produce,
        label="prune" if settings.finetune is None else "prune and fine-tune",
    )
    return network_of("pruned", result.file(run_folder.MODEL), None)


def prune_file(
    onnx: StrPath,
    output: StrPath,
    *,
    recipe: Recipe,
    data: str | None,
    train_data: str | None,
    threads: int | None = None,
    listener: Listener | None = None,
) -> tuple[Path, PruneSummary]:
    """Prunes an ONNX file, without a run.

    Args:
        onnx: FP32 model of whatever exporter; it is read in a child process.
        output: The pruned file, in normal form; ``.onnx`` is added if it lacks.
        recipe: Its ``prune:``, ``preprocess:``, ``task:`` and ``model: {outputs: ...}`` hold.
        data: Images for importance and reconstruction, as after ``--data``; those of its validation
            part tell what was lost. Needed where there are no training images.
        train_data: Images to learn from, too; ``None`` trains nothing.
        threads: CPU threads; torch's own number where ``None``.
        listener: Hears of progress and notes.

    Returns:
        The file, and what is known of it.

    Raises:
        UsageError: No images, or a pruning that a graph cannot have.
        EdgeResError: As :func:`edgeres.pruning.of_onnx.prune_onnx` and ``import_onnx``.
    """
    onnx, listener = Path(onnx), listener or Silent()
    output = output_file(Path(output), ".onnx", source=onnx)
    settings = recipe.prune
    if settings is None or (data is None and train_data is None):
        raise UsageError(
            "pruning an ONNX file needs a `prune:` block, and images.",
            hint="Give --data, or --train-data to train, too.",
        )
    check_graph_pruning(settings)
    work = output.with_name(f"{output.stem}.finetune")
    work.mkdir(parents=True, exist_ok=True)
    if train_data is None:
        settings = untrained(settings)
        listener.note("no training images: layers are reconstructed, nothing is trained.")
    else:
        labels = training_labels(train_data, needed=recipe.is_classifier)
        settings, few = fit_pruning(settings, labels)
        if few:
            listener.note(f"few images: {few}.")
    said = None if recipe.preprocess is None else recipe.preprocess.layout
    imported = import_file(
        onnx, work / _DENSE, layout=said, outputs=recipe.kept_outputs, classes=recipe.is_classifier
    )
    facts = ModelFacts(onnx.name, 0, imported.in_channels, None, (), layout=imported.layout)
    preprocess = choose_preprocess(recipe.preprocess, facts)
    from edgeres.training.device import cpu_threads

    with cpu_threads(threads):
        summary = _pruned(
            work / _DENSE, output, settings, preprocess, _images(data), train_data, work,
            classes=recipe.is_classifier, class_names=(),
            progress=bar(listener, "prune" if train_data is None else "prune and fine-tune"),
            shown=data,
        )  # fmt: skip
    return output, summary


@dataclass(frozen=True)
class _Sets:
    images: Dataset
    held_out: Dataset


def _pruned(
    dense: Path,
    out: Path,
    settings: PruneSettings,
    preprocess: Preprocess,
    calibration: Dataset | None,
    train: str | None,
    work: Path,
    *,
    classes: bool,
    class_names: Sequence[str],
    progress: ProgressCallback,
    shown: str | None = None,
) -> PruneSummary:
    """Opens the images and prunes; images that are ``shown`` judge where nothing is trained."""
    from edgeres.graph.summary import summarize
    from edgeres.pruning.of_code import sets_of
    from edgeres.pruning.of_onnx import OnnxPruning, prune_onnx

    if train is not None:
        last = summarize(dense).outputs[0].shape[-1]
        classes = classes and last is not None and last > 1
        sets = _Sets(*sets_of(train, settings, last if classes else None, class_names))
    else:
        assert calibration is not None
        sets = _apart(calibration, shown)
    pruning = OnnxPruning(settings, preprocess, sets.images, sets.held_out, classes=classes)
    told = prune_onnx(dense, out, pruning, work, progress=progress)
    return PruneSummary.of(told, str(out))


def _images(data: str | None) -> Dataset | None:
    return None if data is None else open_dataset(data, split="calibration")


def _apart(calibration: Dataset, shown: str | None) -> _Sets:
    """Images to look at and others to judge by: the validation part, or a fifth of the images."""
    if shown is not None:
        validation = open_dataset(shown, split="validation", labels_needed=False)
        if validation.fingerprint != calibration.fingerprint:
            few = _spread(len(validation), _JUDGED)
            return _Sets(calibration, validation.subset(few))
    judging = min(_JUDGED, len(calibration) // _JUDGING_PART)
    if judging == 0:
        raise DataError(
            f"{calibration.name}: {len(calibration)} images are too few to prune by.",
            hint="Give at least five; a few hundred are better.",
        )
    held_out = _spread(len(calibration), judging)
    others = sorted(set(range(len(calibration))) - set(held_out))
    return _Sets(calibration.subset(others), calibration.subset(held_out))


def _spread(count: int, wanted: int) -> list[int]:
    """At most ``wanted`` of ``count`` places, evenly apart."""
    wanted = min(wanted, count)
    return [place * count // wanted for place in range(wanted)]
