"""A first look at a trained network and at images: what both are, before a recipe says anything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from edgeres.data.bad_images import first_image
from edgeres.data.class_order import in_order_of, part_note
from edgeres.data.files import skipped_note
from edgeres.data.kinds import are_features
from edgeres.data.source import open_dataset
from edgeres.data.types import Dataset, Sample, Split
from edgeres.errors import DataError, EdgeResError, ModelError, UsageError
from edgeres.evaluation import run_folder
from edgeres.graph.summary import ModelSummary, summarize
from edgeres.pipeline.find_source import Source, find_source
from edgeres.pipeline.module_source import load_module_source
from edgeres.pipeline.source import CHECKPOINT, FACTS, ModelFacts, load_source, relatives_note
from edgeres.pipeline.try_preprocess import Tried, try_preprocess, usual_size
from edgeres.recipe.recipe import ExportSettings, ModelBlock
from edgeres.stages.network import export
from edgeres.system.temporary import temporary_folder

SMALL = 64
"""Images whose longer side is at most this are taken in their own size."""
_CHANNELS = (1, 3)  # that a grey or a colour image becomes
_SIDES_OF = 32  # images whose size is looked at


@dataclass(frozen=True)
class DataSeen:
    """What lies in a data set.

    Attributes:
        parts: Number of samples by split; one part where all splits are the same.
        classes: Names of the classes; empty where there are none.
        labelled: Whether each sample has a class.
        kind: ``images``, ``features`` or ``sounds``.
        sides: Least and greatest height and width of some images; empty for other samples.
        notes: What a person should know.
    """

    parts: dict[str, int]
    classes: tuple[str, ...]
    labelled: bool
    kind: str
    sides: tuple[int, int, int, int] | tuple[()]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Looked:
    """What was found.

    Attributes:
        facts: Of the network.
        summary: Its parameters, multiply-adds and tensors.
        kind: Which kind of file it came from.
        size: Height and width of its images.
        task: ``classification``, or ``outputs`` where it is no classifier or nothing has labels.
        data: Of the data set.
        tried: How its images are likely prepared.
        notes: What a person should know.
    """

    facts: ModelFacts
    summary: ModelSummary
    kind: str
    size: tuple[int, int]
    task: str
    data: DataSeen
    tried: Tried
    notes: tuple[str, ...] = field(default=())


def look(model: ModelBlock, data: str, *, say: Callable[[str], None] = lambda _: None) -> Looked:
    """Looks at a network and a data set.

    Where the network says nothing of its preprocessing and images have labels, usual ways are tried
    on a few of them.

    Args:
        model: The recipe's ``model:`` block, as far as it is known.
        data: As after ``--data``.
        say: Called with what is at work.

    Raises:
        EdgeResError: The network or the data cannot be read.
    """
    validation = _labelled_first(data)
    seen = look_at_data(data, validation)
    sample = first_image(validation)
    own = (sample.height, sample.width)
    say("reading the network")
    with temporary_folder() as folder:
        source, notes = _loaded(model, folder, own if _is_small(seen) else (224, 224))
        facts = ModelFacts.load(folder / FACTS)
        size = own if _is_small(seen) or seen.kind == "features" else (224, 224)
        if source.kind == "checkpoint":
            travelled = facts.preprocess
            size = travelled.output_size(*own) if travelled is not None else size
            say("exporting it to ONNX")
            export(
                folder / CHECKPOINT, folder / run_folder.MODEL, image_size=size,
                settings=ExportSettings(),
            )  # fmt: skip
            if facts.assumed:
                notes = (*notes, relatives_note(facts.name))
        summary = summarize(folder / run_folder.MODEL)
        taken = usual_size(summary.inputs[0].shape, facts.layout)
        size = taken or size
        if seen.kind == "images" and facts.in_channels not in _CHANNELS:
            notes = (
                *notes,
                f"the network takes {facts.in_channels} channels and image files have 1 or 3: give "
                "the pixels as npz:FILE, or what it takes as tensors:FILE.",
            )
        is_classifier = facts.num_classes > 0 and seen.labelled
        ordered = in_order_of(validation, facts.class_names)
        if is_classifier and ordered.note:
            notes = (*notes, ordered.note)
        fits = _fits(ordered.dataset, facts.num_classes)
        if is_classifier and fits and (part := part_note(validation, facts.num_classes)):
            notes = (*notes, part)
        if is_classifier and not fits:
            notes = (*notes, _unlike(seen, facts))
        say("trying how its images are prepared")
        tried = try_preprocess(
            folder / run_folder.MODEL,
            ordered.dataset if is_classifier and fits else None,
            facts,
            size,
            small=_is_small(seen),
        )
    task = "classification" if is_classifier and fits else "outputs"
    return Looked(facts, summary, source.kind, size, task, seen, tried, (*facts.notes, *notes))


def look_at_data(spec: str, validation: Dataset) -> DataSeen:
    """What lies in a data set; ``validation`` is that split of it, opened."""
    parts: dict[str, int] = {"validation": len(validation)}
    splits: tuple[Split, ...] = ("train", "calibration")
    for split in splits:
        try:
            other = open_dataset(spec, split=split, labels_needed=False)
        except EdgeResError:
            continue
        if other.fingerprint != validation.fingerprint:
            parts[split] = len(other)
    labelled = len(validation) > 0 and int(validation.labels.min()) >= 0
    names = tuple(validation.class_names)
    if labelled and not names:
        names = tuple(f"class {n}" for n in range(int(validation.labels.max()) + 1))
    samples = _some(validation)
    kind = "images"
    if are_features(validation):
        kind = "features"
    elif not samples or not hasattr(samples[0], "height"):
        kind = "sounds"
    note = skipped_note(validation)
    return DataSeen(
        parts, names, labelled, kind, _sides(samples) if kind == "images" else (),
        (note,) if note else (),
    )  # fmt: skip


def _labelled_first(data: str) -> Dataset:
    """The validation images with labels, or without where there are none."""
    try:
        return open_dataset(data, split="validation")
    except DataError:
        return open_dataset(data, split="validation", labels_needed=False)


def _loaded(
    model: ModelBlock, folder: Path, image: tuple[int, int]
) -> tuple[Source, tuple[str, ...]]:
    """The network in edgeres' form; as one of several outputs where it is no classifier."""

    def load(source: Source) -> None:
        if source.kind == "module":
            load_module_source(source, folder, block=None, image=image)
        else:
            load_source(source, folder, seen_size=image if source.kind == "onnx" else None)

    source = find_source(model, outputs=tuple(model.outputs or ()))
    try:
        load(source)
    except (ModelError, UsageError) as error:
        if source.kind == "checkpoint":
            raise
        other = replace(source, classes=False)
        try:
            load(other)
        except EdgeResError:
            raise error from None
        return other, (f"it is no classifier: {error.message}",)
    return source, ()


def _is_small(seen: DataSeen) -> bool:
    """Whether all images have one size, and a small one."""
    if not seen.sides:
        return seen.kind == "features"
    low_h, high_h, low_w, high_w = seen.sides
    return (low_h, low_w) == (high_h, high_w) and max(high_h, high_w) <= SMALL


def _fits(dataset: Dataset, classes: int) -> bool:
    return len(dataset.class_names) in (0, classes) and int(dataset.labels.max()) < classes


def _unlike(seen: DataSeen, facts: ModelFacts) -> str:
    return (
        f"the network has {facts.num_classes} classes and the data {len(seen.classes)}, whose "
        "names it does not know: these labels cannot judge it, so the recipe compares outputs. "
        "Say the network's class names (--labels) if theirs are among them."
    )


def _some(dataset: Dataset) -> list[Sample]:
    found = []
    for place in np.unique(np.linspace(0, len(dataset) - 1, min(_SIDES_OF, len(dataset)))):
        try:
            found.append(dataset.image(int(place)))
        except DataError:
            continue
    return found


def _sides(samples: list[Sample]) -> tuple[int, int, int, int] | tuple[()]:
    heights = [sample.height for sample in samples]
    widths = [sample.width for sample in samples]
    return (min(heights), max(heights), min(widths), max(widths)) if heights else ()
