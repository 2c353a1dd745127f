"""The trained network that a run starts from: what it is, and what is known of it.

A network comes as a checkpoint (of edgeres or of other training code), as an architecture name
with weights, or as an ONNX file. Either way the first stage of a run brings it into one form and
writes down what later stages must know, so that they need neither torch nor the original file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edgeres.data.preprocess import Preprocess
from edgeres.errors import ModelError, UsageError
from edgeres.evaluation import run_folder
from edgeres.graph.summary import summarize
from edgeres.models.beside import files_beside
from edgeres.models.plan import ARCHITECTURES, ChannelPlan
from edgeres.models.variant import Variant
from edgeres.recipe.preprocess import PreprocessBlock
from edgeres.recipe.recipe import ModelBlock, Recipe, is_onnx
from edgeres.system.files import file_sha256, write_atomic
from edgeres.system.store import json_sha256
from edgeres.system.stored_json import read_stored

if TYPE_CHECKING:
    from edgeres.exporting.import_onnx import ImportedModel
    from edgeres.models.checkpoint import Checkpoint

CHECKPOINT = "checkpoint.safetensors"
FACTS = "model.json"


@dataclass(frozen=True)
class Source:
    """Where the network lies and which kind of file it is.

    Attributes:
        kind: Which kind of file.
        path: The file.
        sha256: Its hash, with that of the files that hold its weights.
        architecture: As the recipe names it.
        num_classes: Likewise.
        output: The output of an ONNX file that is judged, where it is named.
        input_size: Height and width of an ONNX file that leaves them open, where they are said.
        beside: SHA-256 of each other file that tells something of a checkpoint: the ones in its
            folder that describe it, and its sample answer.
        sample_answer: The sample answer's file, where there is one.
    """

    kind: Literal["checkpoint", "onnx"]
    path: Path
    sha256: str
    architecture: str | None
    num_classes: int | None
    output: str | None = None
    input_size: tuple[int, int] | None = None
    beside: Mapping[str, str] = field(default_factory=dict)
    sample_answer: Path | None = None

    def settings(self) -> dict[str, object]:
        """All that decides what is loaded, where the files lie and its own hash aside."""
        values = asdict(self)
        for name in ("path", "sha256", "beside", "sample_answer"):
            del values[name]
        for name in ("output", "input_size"):  # results that were stored before keep their keys
            if values[name] is None:
                del values[name]
        return values


@dataclass(frozen=True)
class ModelFacts:
    """What is known of a loaded network, stored beside it as JSON.

    Attributes:
        name: Architecture, or the file's stem for an ONNX model.
        num_classes: Number of classes; 2 where the network gives the probability of class 1 alone.
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


def find_source(block: ModelBlock) -> Source:
    """Says what a recipe's ``model:`` block names.

    Raises:
        ModelError: The file does not exist or has an ending that is not read.
        UsageError: Neither a file nor an architecture, an architecture without weights, or a sample
            answer for an ONNX file.
    """
    named_file = Path(block.source).suffix.lower() in {".safetensors", ".pt", ".pth", ".onnx"}
    architecture = None if named_file else block.source
    if not named_file and block.source not in ARCHITECTURES:
        raise UsageError(
            f"{block.source!r} is neither a model file nor an architecture.",
            hint="Give a .safetensors, .pt, .pth or .onnx file, or one of "
            f"{', '.join(sorted(ARCHITECTURES))} with --weights FILE.",
        )
    if not named_file and block.weights is None:
        raise UsageError(
            f"{block.source!r} is an architecture; its trained weights are missing.",
            hint="Give --weights FILE, or a .safetensors, .pt or .onnx file as the model.",
        )
    if named_file and block.weights is not None:
        raise UsageError(
            f"both {block.source} and {block.weights} are given as weights.",
            hint="--weights goes with an architecture name: --model resnet18 --weights FILE.",
        )
    path = Path(block.source if named_file else block.weights or "")
    if not path.is_file():
        raise ModelError(f"{path}: no such model file.", hint="Check the path.")
    kind: Literal["checkpoint", "onnx"] = "onnx" if is_onnx(str(path)) else "checkpoint"
    if kind == "checkpoint" and (block.outputs is not None or block.input_size is not None):
        raise UsageError(
            "an output and an input size are chosen for an .onnx file, not for a checkpoint.",
            hint="Leave --output-name and --input-size (`model: {outputs: ..., input_size: ...}`) "
            "out; --resize and --crop say the size of a checkpoint's images.",
        )
    answer = None if block.sample_answer is None else Path(block.sample_answer)
    if answer is not None and kind == "onnx":
        raise UsageError(
            "a sample answer is for a checkpoint; an ONNX file says itself what it computes.",
            hint="Leave --sample-answer (`model: {sample_answer: ...}`) out.",
        )
    if answer is not None and not answer.is_file():
        raise ModelError(f"{answer}: no such sample answer.", hint="Check the path.")
    described = () if kind == "onnx" else files_beside(path)
    return Source(
        kind=kind,
        path=path,
        sha256=_sha256(path),
        architecture=architecture,
        num_classes=block.num_classes,
        output=block.outputs[0] if block.outputs else None,
        input_size=block.input_size,
        beside={
            **{file.name: file_sha256(file) for file in described},
            **({"sample_answer": file_sha256(answer)} if answer is not None else {}),
        },
        sample_answer=answer,
    )


def _sha256(path: Path) -> str:
    """Hash of a model file; for ONNX also of the files that it names as its weights."""
    own = file_sha256(path)
    if not is_onnx(str(path)):
        return own
    weights = [
        (name, file_sha256(path.parent / name))
        for name in sorted(_weight_files(path.read_bytes()))
        if _is_file(path.parent / name)
    ]
    return json_sha256([own, weights]) if weights else own


def _weight_files(content: bytes) -> set[str]:
    """Relative paths that an ONNX file gives as the location of its weights.

    Its entries are found without parsing it: a file from elsewhere is parsed only where that may
    fail. A path that leads out of the folder is left out here and refused when it is loaded.
    """
    files = set()
    for match in re.finditer(rb"\x0a\x08location\x12", content):
        start, length, shift = match.end(), 0, 0
        while start < len(content) and shift < 21:  # the length is a varint
            byte = content[start]
            length, shift, start = length | (byte & 127) << shift, shift + 7, start + 1
            if byte < 128:
                break
        name = content[start : start + length].decode(errors="replace")
        if name and not Path(name).is_absolute() and ".." not in Path(name).parts:
            files.add(name)
    return files


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _softmax_note(ends_in: str | None) -> tuple[str, ...]:
    if ends_in != "Softmax":
        return ()
    return ("it ends in Softmax, so its outputs and their SQNR are probabilities, not logits.",)


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
        from edgeres.exporting.import_onnx import import_onnx

        imported = import_onnx(
            source.path,
            folder / run_folder.MODEL,
            layout=layout,
            open_size=source.input_size or seen_size,
            output=source.output,
        )
        ModelFacts(
            name=source.path.stem,
            num_classes=max(2, imported.num_classes),
            in_channels=imported.in_channels,
            preprocess=_pixels(imported) if imported.whole_numbers else None,
            class_names=(),
            notes=(*imported.notes, *_softmax_note(imported.ends_in)),
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
    save_checkpoint(folder / CHECKPOINT, checkpoint)
    facts_of(checkpoint).save(folder / FACTS)


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
        notes=_variant_note(checkpoint.plan),
        assumed=checkpoint.plan.assumed,
    )


def choose_preprocess(block: PreprocessBlock | None, facts: ModelFacts) -> Preprocess:
    """What travelled with the model, with what the recipe says put over it, key by key.

    Raises:
        UsageError: Neither says one, or its channels do not fit the network.
    """
    said = block.said() if block is not None else {}
    if said or facts.preprocess is not None:
        travelled = facts.preprocess or Preprocess(channels=facts.in_channels, layout=facts.layout)
        preprocess = Preprocess.from_dict({**travelled.to_dict(), **said})
    else:
        raise UsageError(
            f"{facts.name} does not say how its images are preprocessed.",
            hint="Give the recipe's `preprocess:` block, or --scale, --mean, --std, --resize and "
            "--crop.",
        )
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
