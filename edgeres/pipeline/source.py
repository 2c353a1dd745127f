"""The trained network that a run starts from: what it is, and what is known of it.

A network comes as a checkpoint (of edgeres or of other training code), as an architecture name
with weights, or as an ONNX file. Either way the first stage of a run brings it into one form and
writes down what later stages must know, so that they need neither torch nor the original file.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edgeres.data.preprocess import Preprocess
from edgeres.errors import ModelError, UsageError
from edgeres.evaluation import run_folder
from edgeres.graph.summary import summarize
from edgeres.models.plan import ChannelPlan
from edgeres.models.variant import Variant
from edgeres.pipeline.find_source import Source
from edgeres.recipe.preprocess import PreprocessBlock
from edgeres.recipe.recipe import Recipe
from edgeres.system.files import write_atomic
from edgeres.system.stored_json import read_stored

if TYPE_CHECKING:
    from edgeres.exporting.import_onnx import ImportedModel
    from edgeres.models.checkpoint import Checkpoint

CHECKPOINT = "checkpoint.safetensors"
TRACED = "traced.onnx"
"""What torch's exporter made of a module, before it is brought into edgeres' form."""
FACTS = "model.json"


@dataclass(frozen=True)
class ModelFacts:
    """What is known of a loaded network, stored beside it as JSON.

    Attributes:
        name: Architecture, or the file's stem for an ONNX model.
        num_classes: Number of classes; 2 where the network gives the probability of class 1 alone,
            0 where it is no classifier.
        in_channels: Channels of the image.
        preprocess: As it travelled with the checkpoint; ``None`` where the file did not say.
        class_names: In the order of the logits; empty where the file did not say.
        notes: What a person should know of how the file was read.
        assumed: Whether nobody says which of the networks with its names and shapes it is.
        layout: Of an ONNX file's input.
    """

    name: str
    num_classes: int
    in_channels: int
    preprocess: Preprocess | None
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()
    assumed: bool = False
    layout: Literal["nchw", "nhwc"] = "nchw"

    def save(self, path: Path) -> None:
        """Writes the facts as JSON."""
        travelled = None if self.preprocess is None else self.preprocess.to_dict()
        content = {**asdict(self), "preprocess": travelled}
        write_atomic(path, json.dumps(content, indent=1).encode())

    @staticmethod
    def load(path: Path) -> ModelFacts:
        """Reads what :meth:`save` wrote.

        Raises:
            ArtefactError: It is damaged.
        """
        return read_stored(path, ModelFacts)


def import_file(
    path: Path,
    out: Path,
    *,
    layout: Literal["nchw", "nhwc"] | None,
    open_size: tuple[int, int] | None = None,
    outputs: Sequence[str] = (),
    classes: bool = True,
    remove_given_scales: bool = False,
) -> ImportedModel:
    """Brings an ONNX file into the normal form; its notes say, too, what its outputs are.

    Raises:
        EdgeResError: As :func:`edgeres.exporting.import_onnx.import_onnx`.
    """
    from edgeres.exporting.import_onnx import import_onnx

    imported = import_onnx(
        path,
        out,
        layout=layout,
        open_size=open_size,
        outputs=outputs,
        classes=classes,
        remove_given_scales=remove_given_scales,
    )
    if imported.ends_in.lower() != "softmax":
        return imported
    note = "it ends in Softmax, so its outputs and their SQNR are probabilities, not logits."
    return replace(imported, notes=(*imported.notes, note))


def relatives_note(name: str) -> str:
    """What is said of a checkpoint that nobody says the kind of."""
    return (
        f"{name}: names and shapes of weights cannot tell a plain network from its relatives "
        "(anti-aliased, dilated, another stem, stride position or activation), and nothing in or "
        "beside the checkpoint says which it is; it was read as the plain one. Say "
        "`declared_top1` or `sample_answer` (--declared-top1, --sample-answer) to have that "
        "checked."
    )


def _variant_note(plan: ChannelPlan) -> tuple[str, ...]:
    return () if plan.variant == Variant() else (f"a relative of the plain one: {plan.variant}.",)


def load_source(
    source: Source,
    folder: Path,
    *,
    layout: Literal["nchw", "nhwc"] | None = None,
    seen_size: tuple[int, int] | None = None,
) -> None:
    """Brings the network into edgeres' form: facts, and a checkpoint or an ONNX file, in a folder.

    Args:
        source: What it is.
        folder: Where it goes.
        layout: Of an ONNX file's input; ``None`` for what the file looks like.
        seen_size: Height and width of the preprocessed images, for an ONNX file that leaves its own
            open and where the user says none.

    Raises:
        ModelError: The file cannot be used.
    """
    if source.kind == "onnx":
        imported = import_file(
            source.path,
            folder / run_folder.MODEL,
            layout=layout,
            open_size=source.input_size or seen_size,
            outputs=source.outputs,
            classes=source.classes,
            remove_given_scales=source.given_scales is not None,
        )
        ModelFacts(
            name=source.path.stem,
            num_classes=max(2, imported.num_classes) if source.classes else 0,
            in_channels=imported.in_channels,
            preprocess=_pixels(imported) if imported.whole_numbers else None,
            class_names=named(source.labels, imported.num_classes),
            notes=_with_kept_scales(imported.notes)
            if source.given_scales == "keep"
            else imported.notes,
            layout=imported.layout,
        ).save(folder / FACTS)
        return
    from edgeres.models.checkpoint import load_checkpoint, save_checkpoint

    checkpoint = load_checkpoint(
        source.path,
        architecture=source.architecture,
        num_classes=source.num_classes,
        sample_answer=source.sample_answer,
    )
    if source.labels:
        names = named(source.labels, checkpoint.plan.num_classes)
        checkpoint = replace(checkpoint, class_names=names)
    save_checkpoint(folder / CHECKPOINT, checkpoint)
    facts_of(checkpoint).save(folder / FACTS)


def named(labels: tuple[str, ...], classes: int) -> tuple[str, ...]:
    """The names that a user says of a network's classes.

    Raises:
        ModelError: There are more or fewer than classes.
    """
    if labels and len(labels) != max(2, classes):
        raise ModelError(
            f"{len(labels)} class names are given, the network has {classes} classes.",
            hint="--labels (`model: {labels: ...}`) wants one for each, in the scores' order.",
        )
    return labels


def _with_kept_scales(notes: Sequence[str]) -> tuple[str, ...]:
    """The notes of an import that took scales out for the float network alone."""
    from edgeres.exporting.foreign import SCALES_REMOVED

    kept = "it is quantized already and keeps its scales; FP32 is the same network without them."
    return tuple(kept if note == SCALES_REMOVED else note for note in notes)


def _pixels(imported: ImportedModel) -> Preprocess:
    """The preprocessing of a network that takes pixels as they are."""
    return Preprocess(scale=1.0, channels=imported.in_channels, layout=imported.layout)


def facts_of(checkpoint: Checkpoint) -> ModelFacts:
    """What is known of a loaded checkpoint."""
    return ModelFacts(
        name=checkpoint.plan.architecture,
        num_classes=checkpoint.plan.num_classes,
        in_channels=checkpoint.plan.in_channels,
        preprocess=checkpoint.preprocess,
        class_names=checkpoint.class_names,
        notes=(*_variant_note(checkpoint.plan), *checkpoint.notes),
        assumed=checkpoint.plan.assumed,
    )


def choose_preprocess(
    block: PreprocessBlock | None, facts: ModelFacts, *, features: bool = False
) -> Preprocess:
    """What travelled with the model, with what the recipe says put over it, key by key.

    Args:
        block: What the recipe says.
        facts: What is known of the network.
        features: Whether samples are the network's input already, of which nothing need be said.

    Raises:
        UsageError: Neither says one, or its channels do not fit the network.
    """
    said = block.said() if block is not None else {}
    if said or facts.preprocess is not None or features:
        travelled = facts.preprocess or Preprocess(channels=facts.in_channels, layout=facts.layout)
        preprocess = Preprocess.from_dict({**travelled.to_dict(), **said})
    else:
        raise UsageError(
            f"{facts.name} does not say how its images are preprocessed.",
            hint="Give the recipe's `preprocess:` block, or --scale, --mean, --std, --resize and "
            "--crop.",
        )
    if features:
        return preprocess
    if preprocess.channels != facts.in_channels:
        raise UsageError(
            f"the preprocessing gives {preprocess.channels} channels, {facts.name} takes "
            f"{facts.in_channels}.",
            hint=f"Set `channels: {facts.in_channels}` in the `preprocess:` block.",
        )
    return preprocess


def onnx_preprocess(recipe: Recipe, onnx: Path) -> Preprocess:
    """The preprocessing that a recipe says, with the channels that an ONNX file takes.

    Raises:
        UsageError: The recipe says none, or its channels do not fit the network.
    """
    nhwc = recipe.preprocess is not None and recipe.preprocess.layout == "nhwc"
    channels = summarize(onnx).inputs[0].shape[-1 if nhwc else 1] or 3
    return choose_preprocess(recipe.preprocess, ModelFacts(str(onnx), 0, channels, None, ()))
