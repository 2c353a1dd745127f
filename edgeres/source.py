"""The trained network that a run starts from: what it is, and what is known of it.

A network comes as a checkpoint (of edgeres or of other training code), as an architecture name
with weights, or as an ONNX file. Either way the first stage of a run brings it into one form and
writes down what later stages must know, so that they need neither torch nor the original file.
"""

from __future__ import annotations

import json
import re
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
    """Where the network lies and which kind of file it is.

    Attributes:
        kind: Which kind of file.
        path: The file.
        sha256: Its hash, with that of the files that hold its weights.
        architecture: As the recipe names it.
        num_classes: Likewise.
        beside_sha256: Hash of the files beside a checkpoint that say what it is; empty for none.
    """

    kind: Literal["checkpoint", "onnx"]
    path: Path
    sha256: str
    architecture: str | None
    num_classes: int | None
    beside_sha256: str = ""

    def settings(self) -> dict[str, Any]:
        """All that decides what is loaded, where the file lies and its own hash aside."""
        values = asdict(self)
        del values["path"], values["sha256"]
        return values


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
        beside_sha256="" if is_onnx(str(path)) else _beside_sha256(path),
    )


def _beside_sha256(path: Path) -> str:
    """Hash of what training code writes beside a checkpoint of what it is."""
    names = ("config.json", "preprocessor_config.json", f"{path.stem}.json")
    files = [path.with_name(name) for name in names]
    found = [(file.name, file_sha256(file)) for file in files if file.is_file()]
    return json_sha256(found) if found else ""


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
    found = set()
    for match in re.finditer(rb"\x0a\x08location\x12", content):
        start, length, shift = match.end(), 0, 0
        while start < len(content) and shift < 21:  # the length is a varint
            byte = content[start]
            length, shift, start = length | (byte & 127) << shift, shift + 7, start + 1
            if byte < 128:
                break
        name = content[start : start + length].decode(errors="replace")
        if name and not Path(name).is_absolute() and ".." not in Path(name).parts:
            found.add(name)
    return found


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False


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
