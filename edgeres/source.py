"""The trained network that a run starts from: what it is, and what is known of it.

A network comes as a checkpoint (of edgeres or of other training code), as an architecture name
with weights, or as an ONNX file. Either way the first stage of a run brings it into one form and
writes down what later stages must know, so that they need neither torch nor the original file.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from edgeres.data.preprocess import Preprocess
from edgeres.errors import ModelError, UsageError
from edgeres.files import file_sha256, write_atomic
from edgeres.recipe import ModelBlock, PreprocessBlock, is_onnx
from edgeres.store import json_sha256

CHECKPOINT = "checkpoint.safetensors"
ONNX = "model.onnx"
FACTS = "model.json"


@dataclass(frozen=True)
class Source:
    """Where the network lies and which kind of file it is."""

    kind: Literal["checkpoint", "onnx"]
    path: Path
    sha256: str
    architecture: str | None
    num_classes: int | None


@dataclass(frozen=True)
class ModelFacts:
    """What is known of a loaded network, stored beside it as JSON.

    Attributes:
        name: Architecture, or the file's stem for an ONNX model.
        num_classes: Length of the logits.
        in_channels: 1 or 3.
        preprocess: As it travelled with the checkpoint; ``None`` where the file did not say.
        class_names: In the order of the logits; empty where the file did not say.
        notes: What a person should know of how the file was read.
    """

    name: str
    num_classes: int
    in_channels: int
    preprocess: dict[str, Any] | None
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def save(self, path: Path) -> None:
        """Writes the facts as JSON."""
        write_atomic(path, json.dumps(asdict(self), indent=1).encode())

    @staticmethod
    def load(path: Path) -> ModelFacts:
        """Reads what :meth:`save` wrote (a verified stage result)."""
        facts = json.loads(path.read_text())
        lists = {key: tuple(facts[key]) for key in ("class_names", "notes")}
        return ModelFacts(**{**facts, **lists})


def find_source(block: ModelBlock) -> Source:
    """Says what a recipe's ``model:`` block names.

    Raises:
        ModelError: The file does not exist or has an ending that is not read.
        UsageError: An architecture without weights.
    """
    named_file = Path(block.source).suffix.lower() in {".safetensors", ".pt", ".pth", ".onnx"}
    architecture = None if named_file else block.source
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
    return Source(
        kind="onnx" if is_onnx(str(path)) else "checkpoint",
        path=path,
        sha256=_sha256(path),
        architecture=architecture,
        num_classes=block.num_classes,
    )


def _sha256(path: Path) -> str:
    """Hash of a model file; for ONNX also of the files beside it that it names as its weights."""
    own = file_sha256(path)
    if not is_onnx(str(path)):
        return own
    content = path.read_bytes()
    beside = [
        (file.name, file_sha256(file))
        for file in sorted(path.parent.iterdir())
        if file != path and file.is_file() and file.name.encode() in content
    ]
    return json_sha256([own, beside]) if beside else own


def _softmax_note(ends_in: str | None) -> tuple[str, ...]:
    if ends_in != "Softmax":
        return ()
    return ("it ends in Softmax, so its outputs and their SQNR are probabilities, not logits.",)


def load_source(source: Source, folder: Path, *, layout: Literal["nchw", "nhwc"] = "nchw") -> None:
    """Brings the network into edgeres' form: facts, and a checkpoint or an ONNX file, in a folder.

    Raises:
        ModelError: The file cannot be used.
    """
    if source.kind == "onnx":
        from edgeres.exporting.import_onnx import import_onnx

        imported = import_onnx(source.path, folder / ONNX, layout=layout)
        ModelFacts(
            name=source.path.stem,
            num_classes=imported.num_classes,
            in_channels=imported.in_channels,
            preprocess=None,
            class_names=(),
            notes=(*imported.notes, *_softmax_note(imported.ends_in)),
        ).save(folder / FACTS)
        return
    from edgeres.models.checkpoint import load_checkpoint, save_checkpoint

    checkpoint = load_checkpoint(
        source.path, architecture=source.architecture, num_classes=source.num_classes
    )
    save_checkpoint(folder / CHECKPOINT, checkpoint)
    ModelFacts(
        name=checkpoint.plan.architecture,
        num_classes=checkpoint.plan.num_classes,
        in_channels=checkpoint.plan.in_channels,
        preprocess=checkpoint.preprocess.to_dict() if checkpoint.preprocess else None,
        class_names=checkpoint.class_names,
    ).save(folder / FACTS)


def choose_preprocess(block: PreprocessBlock | None, facts: ModelFacts) -> Preprocess:
    """What travelled with the model, with what the recipe says put over it, key by key.

    Raises:
        UsageError: Neither says one, or its channels do not fit the network.
    """
    said = block.model_dump(exclude_unset=True) if block is not None else {}
    if said or facts.preprocess is not None:
        travelled = facts.preprocess or {"channels": facts.in_channels}
        preprocess = Preprocess.from_dict({**travelled, **said})
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
